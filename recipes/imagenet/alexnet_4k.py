"""AlexNet on ImageNet at 4,096 images a step without LARS: its best rate, which loses (You et al. 2017, Table
1a).

The other rates of the table: schedule.base_lr=0.04, 0.06 and 0.07, the last of which diverged.

Run        deepspeed --hostfile hostfiles/16x8 recipes/imagenet/alexnet_4k.py data.root=/data/imagenet
Published  top-1 error 46.9 % (one run)
Differs    in what alexnet lists
Measured   not yet
"""

from alexnet import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 0.05.
recipe = baseline.vary(
    batch_size=4096,
    schedule=dict(base_lr=0.05, base_batch_size=4096),
    expect=Expectation("top1_error", 46.9, 0.5, "You et al. 2017, Table 1a"),
)

if __name__ == "__main__":
    main(recipe)
