"""Wide ResNet 16-4 on CIFAR-10 with Adam and a falling rate (Smith et al. 2018, section 5.1).

Rate and moments are Adam's defaults, without weight decay: the source at hand names the arm, not its rate.

Run        python recipes/cifar10/wide_resnet_adam.py data.root=/data/cifar10
Published  a test curve (a figure without numbers)
Differs    in what wide_resnet lists
Measured   not yet
"""

from wide_resnet import recipe as decay

from lbtrain import main

# Peak learning rate 0.001.
recipe = decay.vary(optimizer=dict(name="adamw", weight_decay=0.0, eps=1e-8), schedule=dict(base_lr=0.001))

if __name__ == "__main__":
    main(recipe)
