"""AlexNet on ImageNet at 8,192 images a step with LARS (You et al. 2017, Table 3a).

batch_size=16384 schedule.base_lr=14 and batch_size=32768 schedule.base_lr=14 are its further rows (errors of
45.0 and 53.1 %).

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/alexnet_lars_8k.py data.root=/data/imagenet
Published  top-1 error 41.8 % (one run)
Differs    in what alexnet lists
Measured   not yet
"""

from alexnet_lars import recipe as lars

from lbtrain import Expectation, main

# Peak learning rate 10.
recipe = lars.vary(
    batch_size=8192,
    schedule=dict(base_lr=10.0, base_batch_size=8192),
    expect=Expectation("top1_error", 41.8, 0.5, "You et al. 2017, Table 3a"),
)

if __name__ == "__main__":
    main(recipe)
