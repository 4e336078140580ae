"""AlexNet-BN on ImageNet at 4,096 images a step with LARS (You et al. 2017, Table 3b).

Run        deepspeed --hostfile hostfiles/16x8 recipes/imagenet/alexnet_bn_lars_4k.py data.root=/data/imagenet
Published  top-1 error 39.6 % (one run)
Differs    in what alexnet_bn_lars lists
Measured   not yet
"""

from alexnet_bn_lars import recipe as lars

from lbtrain import Expectation, main

# Peak learning rate 10.
recipe = lars.vary(
    batch_size=4096,
    bn_batch_size=512,
    schedule=dict(base_lr=10.0, base_batch_size=4096),
    expect=Expectation("top1_error", 39.6, 0.5, "You et al. 2017, Table 3b"),
)

if __name__ == "__main__":
    main(recipe)
