"""Wide ResNet 16-4 on CIFAR-10 with plain SGD and a falling rate (Smith et al. 2018, section 5.1).

The rate is ten times that of momentum 0.9, for the same lr / (1 - momentum): the source at hand names the
arm, not its rate.

Run        python recipes/cifar10/wide_resnet_sgd.py data.root=/data/cifar10
Published  a test curve (a figure without numbers)
Differs    in what wide_resnet lists
Measured   not yet
"""

from wide_resnet import recipe as decay

from lbtrain import main

# Peak learning rate 1.
recipe = decay.vary(optimizer=dict(momentum=0.0, nesterov=False), schedule=dict(base_lr=1.0))

if __name__ == "__main__":
    main(recipe)
