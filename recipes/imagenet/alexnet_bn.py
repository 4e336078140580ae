"""AlexNet-BN on ImageNet at 512 images a step: batch norm for local response norm, no warm-up (You et al.
2017, Table 1b).

The text trains 128 epochs, the table's caption says 100. The paper does not say the batch of its batch norm:
64 is a GPU's share of 512 on eight.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/alexnet_bn.py data.root=/data/imagenet
Published  top-1 error 39.8 % (one run)
Measured   not yet
"""

from alexnet import recipe as alexnet

from lbtrain import Expectation, main

# Peak learning rate 0.02.
recipe = alexnet.vary(
    bn_batch_size=64,
    duration="128ep",
    model=dict(name="alexnet_bn"),
    schedule=dict(warmup="0ep", warmup_start_lr=None),
    expect=Expectation("top1_error", 39.8, 0.5, "You et al. 2017, Table 1b"),
)

if __name__ == "__main__":
    main(recipe)
