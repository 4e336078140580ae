"""ResNet-8 on CIFAR-10 at 1,024 images a step, in ghost batches of 128 too (Hoffer et al. 2017, Table 1,
fourth arm: + GBN).

Run        python recipes/cifar10/resnet8_1k_ghost_bn.py duration=4ep data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 49.24 ± 2.29 % (n=3, 1 rank; results/cifar10_regime.json)
"""

from resnet8_1k_sqrt import recipe as scaled

from lbtrain import Difference, main

# Peak learning rate 0.4571.
recipe = scaled.vary(
    bn_batch_size=128,
    max_micro_batch_size=128,
    finding=Difference("cifar10/resnet8_1k_sqrt", "<=0.0", "Hoffer et al. 2017, Table 1"),
)

if __name__ == "__main__":
    main(recipe)
