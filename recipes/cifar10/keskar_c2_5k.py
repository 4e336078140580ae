"""Keskar's deep network C2 on CIFAR-10 at 5,000 images a step with Adam: the large batch, a tenth of the data
(Keskar et al. 2017, Table 2).

Run        python recipes/cifar10/keskar_c2_5k.py data.root=/data/cifar10
Published  top-1 error 12.74 ± 0.07 % (other settings not stated; 5 runs)
Differs    in what keskar_c2 lists
Measured   not yet
"""

from keskar_c2 import recipe as small_batch

from lbtrain import Difference, main

# Peak learning rate 0.001.
recipe = small_batch.vary(
    batch_size=5000,
    bn_batch_size=5000,
    finding=Difference("cifar10/keskar_c2", ">0.0", "Keskar et al. 2017, Table 2"),
)

if __name__ == "__main__":
    main(recipe)
