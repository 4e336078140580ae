"""Wide ResNet 16-4 on CIFAR-10, hybrid: at the first step the batch grows, from then on the rate falls (Smith
et al. 2018, section 5.1).

Run        python recipes/cifar10/wide_resnet_hybrid.py data.root=/data/cifar10
Published  test curves that cannot be told from those of the original schedule (a figure without numbers)
Differs    in what wide_resnet lists
Measured   not yet
"""

from wide_resnet import recipe as decay

from lbtrain import Difference, main

# Peak learning rate 0.1.
recipe = decay.vary(
    schedule=dict(batch_growth=["60ep:5"], milestones=["120ep", "160ep"]),
    finding=Difference("cifar10/wide_resnet", "+-0.5", "Smith et al. 2018, section 5.1; the bound is ours"),
)


if __name__ == "__main__":
    main(recipe)
