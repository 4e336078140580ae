"""Wide ResNet 16-4 on CIFAR-10 with a growing batch: 128, 640, 3,200, 5,120 images (Smith et al. 2018,
section 5.1).

The batch stops at about a tenth of the data set; what is missing of the last step's factor of 5, the rate
falls by.

Run        python recipes/cifar10/wide_resnet_growth.py data.root=/data/cifar10
Published  top-1 error 5.6 % in about 29,000 steps
Differs    in what wide_resnet lists
Measured   not yet
"""

from wide_resnet import recipe as decay

from lbtrain import Expectation, main

# Peak learning rate 0.1.
recipe = decay.vary(
    schedule=dict(batch_growth=["60ep:5", "120ep:5", "160ep:1.6"], milestones=["160ep:0.32"]),
    expect=Expectation("top1_error", 5.6, 0.5, "Smith et al. 2018, section 5"),
)

if __name__ == "__main__":
    main(recipe)
