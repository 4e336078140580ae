"""A reduced AlexNet with batch norm in all layers on CIFAR-10 at 16 images a step (Masters & Luschi 2018,
section 3.3 and Figure 5).

model.args={batch_norm: conv} has it in the convolutions alone (Figure 6: best between 4 and 32 images).

Run        python recipes/cifar10/small_alexnet_bn.py data.root=/data/cifar10
Published  best between 8 and 64 images (a figure without numbers)
Differs    in what small_alexnet lists
Measured   not yet
"""

from small_alexnet import recipe as plain

from lbtrain import BestBatch, main

# Peak learning rate 0.0625.
recipe = plain.vary(
    batch_size=16,
    bn_batch_size=16,
    model=dict(args={"batch_norm": "all"}),
    finding=BestBatch(8, 64, "Masters & Luschi 2018, Figure 5"),
)


if __name__ == "__main__":
    main(recipe)
