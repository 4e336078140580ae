"""AlexNet-BN on ImageNet at 4,096 images a step without LARS, at its best rate (You et al. 2017, Table 1b).

The other rates of the table: schedule.base_lr=0.16, 0.21 and 0.30.

Run        deepspeed --hostfile hostfiles/16x8 recipes/imagenet/alexnet_bn_4k.py data.root=/data/imagenet
Published  top-1 error 41.1 % (one run)
Differs    in what alexnet_bn lists
Measured   not yet
"""

from alexnet_bn import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 0.18.
recipe = baseline.vary(
    batch_size=4096,
    bn_batch_size=512,
    schedule=dict(base_lr=0.18, base_batch_size=4096),
    expect=Expectation("top1_error", 41.1, 0.5, "You et al. 2017, Table 1b"),
)

if __name__ == "__main__":
    main(recipe)
