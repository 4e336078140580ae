"""A reduced AlexNet on CIFAR-10 at 8 images a step without batch norm or augmentation (Masters & Luschi 2018,
section 3.2, Figure 1).

The paper's best rate stands in a figure only; this is the one of its Figure 4, out of its grid 2^-12 to 1.

Run        python recipes/cifar10/small_alexnet.py data.root=/data/cifar10
Published  best at 8 images or fewer (a figure without numbers)
Differs    what the paper does not state is ours: where the pools lie, weights drawn as in He et al. 2015, no
           weight decay of batch norm and biases
Measured   not yet
"""

from small_resnet32 import recipe as resnet32

from lbtrain import BestBatch, main

# Peak learning rate 0.03125.
recipe = resnet32.vary(
    model=dict(name="reduced_alexnet"),
    data=dict(augmentation="none"),
    optimizer=dict(weight_decay=5e-4),
    finding=BestBatch(1, 8, "Masters & Luschi 2018, Figure 1"),
)


if __name__ == "__main__":
    main(recipe)
