"""ResNet-8 on CIFAR-10 at 1,024 images a step, the rate by the square-root rule (Hoffer et al. 2017, Table 1,
third arm: + LR).

Run        python recipes/cifar10/resnet8_1k_sqrt.py duration=4ep data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 48.94 ± 1.31 % (n=3, 1 rank; results/cifar10_regime.json)
"""

from resnet8_1k import recipe as large_batch

from lbtrain import Difference, main

# Peak learning rate 0.4571.
recipe = large_batch.vary(
    schedule=dict(rule="sqrt"),
    finding=Difference("cifar10/resnet8_1k", "<=0.0", "Hoffer et al. 2017, Table 1"),
)

if __name__ == "__main__":
    main(recipe)
