"""AlexNet-BN on ImageNet at 8,192 images a step without LARS, at its best rate (You et al. 2017, Table 1b).

The other rates of the table: schedule.base_lr=0.23, 0.32 and 0.41.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/alexnet_bn_8k.py data.root=/data/imagenet
Published  top-1 error 42.0 % (one run)
Differs    in what alexnet_bn lists
Measured   not yet
"""

from alexnet_bn import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 0.3.
recipe = baseline.vary(
    batch_size=8192,
    bn_batch_size=1024,
    schedule=dict(base_lr=0.3, base_batch_size=8192),
    expect=Expectation("top1_error", 42.0, 0.5, "You et al. 2017, Table 1b"),
)

if __name__ == "__main__":
    main(recipe)
