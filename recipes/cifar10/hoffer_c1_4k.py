"""Hoffer's shallow network C1 on CIFAR-10 at 4,096 images a step with nothing changed: the large batch
(Hoffer et al. 2017, Table 1, second arm).

Run        torchrun --nproc_per_node 8 recipes/cifar10/hoffer_c1_4k.py data.root=/data/cifar10
Published  Hoffer et al. 2017, Table 1 (its figures were not at hand; none is stated here)
Differs    in what hoffer_c1 lists
Measured   not yet
"""

from hoffer_c1 import recipe as small_batch

from lbtrain import Difference, main

# Peak learning rate 0.01.
recipe = small_batch.vary(
    batch_size=4096,
    bn_batch_size=4096,
    finding=Difference("cifar10/hoffer_c1", ">0.0", "Hoffer et al. 2017, Table 1"),
)

if __name__ == "__main__":
    main(recipe)
