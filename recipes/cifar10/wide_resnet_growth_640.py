"""Wide ResNet 16-4 on CIFAR-10 from 640 images a step and rate 0.5 on, with a growing batch (Smith et al.
2018, section 5.2).

From epoch 60 on the batch is 3,200, from 120 on 5,120; what is missing of the factors of 5, the rate falls
by.

Run        python recipes/cifar10/wide_resnet_growth_640.py data.root=/data/cifar10
Published  top-1 error 5.5 %
Differs    in what wide_resnet lists
Measured   not yet
"""

from wide_resnet import recipe as decay

from lbtrain import Expectation, main

# Peak learning rate 0.5.
recipe = decay.vary(
    batch_size=640,
    schedule=dict(batch_growth=["60ep:5", "120ep:1.6"], milestones=["120ep:0.32", "160ep:0.2"]),
    expect=Expectation("top1_error", 5.5, 0.5, "Smith et al. 2018, section 5"),
)

if __name__ == "__main__":
    main(recipe)
