"""ResNet-8 on CIFAR-10 at 4 images a step without batch norm or augmentation (Masters & Luschi 2018, section
3.2 and Figure 2).

The paper's best rate stands in a figure only; this is the one of its Figure 4, out of its grid 2^-12 to 1.

Run        python recipes/cifar10/small_resnet8.py data.root=/data/cifar10
Published  best between 2 and 4 images (a figure without numbers)
Differs    in what small_resnet32 lists
Measured   not yet
"""

from small_resnet32 import recipe as with_norm

from lbtrain import BestBatch, main

# Peak learning rate 0.01562.
recipe = with_norm.vary(
    batch_size=4,
    model=dict(name="cifar_resnet8", args={"batch_norm": False}),
    data=dict(augmentation="none"),
    finding=BestBatch(2, 4, "Masters & Luschi 2018, Figure 2"),
)


if __name__ == "__main__":
    main(recipe)
