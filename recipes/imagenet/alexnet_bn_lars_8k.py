"""AlexNet-BN on ImageNet at 8,192 images a step with LARS (You et al. 2017, Table 3b).

batch_size=16384 schedule.base_lr=23 and batch_size=32768 schedule.base_lr=22 are its further rows (errors of
40.7 and 42.2 %).

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/alexnet_bn_lars_8k.py data.root=/data/imagenet
Published  top-1 error 39.9 % (one run)
Differs    in what alexnet_bn_lars lists
Measured   not yet
"""

from alexnet_bn_lars import recipe as lars

from lbtrain import Expectation, main

# Peak learning rate 14.
recipe = lars.vary(
    batch_size=8192,
    bn_batch_size=1024,
    schedule=dict(base_lr=14.0, base_batch_size=8192),
    expect=Expectation("top1_error", 39.9, 0.5, "You et al. 2017, Table 3b"),
)

if __name__ == "__main__":
    main(recipe)
