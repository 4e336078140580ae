"""Keskar's shallow network C1 on CIFAR-10 at 5,000 images a step with Adam: the large batch, a tenth of the
data (Keskar et al. 2017, Table 2).

Run        python recipes/cifar10/keskar_c1_5k.py data.root=/data/cifar10
Published  top-1 error 22.74 ± 0.42 % (other settings not stated; 5 runs)
Differs    in what keskar_c1 lists
Measured   not yet
"""

from keskar_c1 import recipe as small_batch

from lbtrain import Difference, main

# Peak learning rate 0.001.
recipe = small_batch.vary(
    batch_size=5000,
    bn_batch_size=5000,
    finding=Difference("cifar10/keskar_c1", ">0.0", "Keskar et al. 2017, Table 2"),
)

if __name__ == "__main__":
    main(recipe)
