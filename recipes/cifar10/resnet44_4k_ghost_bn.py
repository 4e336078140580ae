"""ResNet-44 on CIFAR-10 at 4,096 images a step, in ghost batches of 128 too (Hoffer et al. 2017, Table 1,
fourth arm: + GBN).

Run        torchrun --nproc_per_node 8 recipes/cifar10/resnet44_4k_ghost_bn.py data.root=/data/cifar10
Published  Hoffer et al. 2017, Table 1 (its figures were not at hand; none is stated here)
Differs    in what resnet44 lists
Measured   not yet
"""

from resnet44_4k_sqrt import recipe as scaled

from lbtrain import Difference, main

# Peak learning rate 0.5657.
recipe = scaled.vary(
    bn_batch_size=128,
    finding=Difference("cifar10/resnet44_4k_sqrt", "<=0.0", "Hoffer et al. 2017, Table 1"),
)


if __name__ == "__main__":
    main(recipe)
