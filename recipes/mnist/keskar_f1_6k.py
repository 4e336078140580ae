"""Keskar's fully connected network F1 on MNIST at 6,000 images a step with Adam: the large batch, a tenth of
the data (Keskar et al. 2017, Table 2).

Run        python recipes/mnist/keskar_f1_6k.py data.root=/data/mnist
Published  top-1 error 2.19 ± 0.07 % (other settings not stated; 5 runs)
Differs    in what keskar_f1 lists
Measured   not yet
"""

from keskar_f1 import recipe as small_batch

from lbtrain import Difference, main

# Peak learning rate 0.001.
recipe = small_batch.vary(
    batch_size=6000,
    bn_batch_size=6000,
    finding=Difference("mnist/keskar_f1", ">0.0", "Keskar et al. 2017, Table 2"),
)

if __name__ == "__main__":
    main(recipe)
