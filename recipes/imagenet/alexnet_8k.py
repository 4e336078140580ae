"""AlexNet on ImageNet at 8,192 images a step without LARS: its best rate, which loses (You et al. 2017, Table
1a).

The other rates of the table: schedule.base_lr=0.02, 0.04 and 0.05, the last of which diverged.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/alexnet_8k.py data.root=/data/imagenet
Published  top-1 error 55.2 % (one run)
Differs    in what alexnet lists
Measured   not yet
"""

from alexnet import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 0.03.
recipe = baseline.vary(
    batch_size=8192,
    schedule=dict(base_lr=0.03, base_batch_size=8192),
    expect=Expectation("top1_error", 55.2, 0.5, "You et al. 2017, Table 1a"),
)

if __name__ == "__main__":
    main(recipe)
