"""ResNet-44 on CIFAR-10 at 4,096 images a step, the rate by the square-root rule (Hoffer et al. 2017, Table
1, third arm: + LR).

Run        torchrun --nproc_per_node 8 recipes/cifar10/resnet44_4k_sqrt.py data.root=/data/cifar10
Published  Hoffer et al. 2017, Table 1 (its figures were not at hand; none is stated here)
Differs    in what resnet44 lists
Measured   not yet
"""

from resnet44_4k import recipe as large_batch

from lbtrain import Difference, main

# Peak learning rate 0.5657.
recipe = large_batch.vary(
    schedule=dict(rule="sqrt"),
    finding=Difference("cifar10/resnet44_4k", "<=0.0", "Hoffer et al. 2017, Table 1"),
)


if __name__ == "__main__":
    main(recipe)
