"""Wide ResNet 16-4 on CIFAR-10 with plain SGD and a growing batch: 128, 640, 3,200, 5,120 images (Smith et
al. 2018, section 5.1).

Run        python recipes/cifar10/wide_resnet_sgd_growth.py data.root=/data/cifar10
Published  test curves that cannot be told from those of the falling rate (a figure without numbers)
Differs    in what wide_resnet lists
Measured   not yet
"""

from wide_resnet_sgd import recipe as decay

from lbtrain import Difference, main

# Peak learning rate 1.
recipe = decay.vary(
    schedule=dict(batch_growth=["60ep:5", "120ep:5", "160ep:1.6"], milestones=["160ep:0.32"]),
    finding=Difference(
        "cifar10/wide_resnet_sgd", "+-0.5", "Smith et al. 2018, section 5.1; the bound is ours"
    ),
)

if __name__ == "__main__":
    main(recipe)
