"""ResNet-8 on CIFAR-10 at 1,024 images a step for as many steps as at 128 (Hoffer et al. 2017, Table 1, fifth
arm: + RA).

Regime adaptation multiplies all lengths by 8: 4 epochs become 32. It answers what the batch costs in
accuracy, not in time.

Run        python recipes/cifar10/resnet8_1k_regime.py duration=4ep data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 19.44 ± 0.30 % (n=3, 1 rank; results/cifar10_regime.json)
"""

from resnet8_1k_ghost_bn import recipe as ghost_bn

from lbtrain import Difference, main

# Peak learning rate 0.4571.
recipe = ghost_bn.vary(
    schedule=dict(regime_adaptation=True),
    evaluate_every="8ep",
    checkpoint=dict(every="8ep"),
    finding=Difference("cifar10/resnet8", "<=1.0", "Hoffer et al. 2017, Table 1; the bound is ours"),
)

if __name__ == "__main__":
    main(recipe)
