"""Hoffer's shallow network C1 on CIFAR-10 at 4,096 images a step in ghost batches of 128, the rate by the
square-root rule (Hoffer et al. 2017, Table 1, fourth arm: + GBN).

Run        torchrun --nproc_per_node 8 recipes/cifar10/hoffer_c1_4k_ghost_bn.py data.root=/data/cifar10
Published  Hoffer et al. 2017, Table 1 (its figures were not at hand; none is stated here)
Differs    in what hoffer_c1 lists
Measured   not yet
"""

from hoffer_c1_4k import recipe as large_batch

from lbtrain import Difference, main

# Peak learning rate 0.05657.
recipe = large_batch.vary(
    bn_batch_size=128,
    schedule=dict(rule="sqrt"),
    finding=Difference("cifar10/hoffer_c1_4k", "<=0.0", "Hoffer et al. 2017, Table 1"),
)

if __name__ == "__main__":
    main(recipe)
