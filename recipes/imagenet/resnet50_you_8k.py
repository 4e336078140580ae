"""ResNet-50 on ImageNet at 8,192 images a step with LARS, as the paper trained it: rate 30, 5 epochs of
warm-up (You et al. 2017, Table 4).

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_you_8k.py data.root=/data/imagenet
Published  top-1 error 26.5 % (one run, minimal augmentation; extended: 24.8 %)
Differs    in what resnet50_you lists
Measured   not yet
"""

from resnet50_you_1k import recipe as lars_1k

from lbtrain import Expectation, main

# Peak learning rate 30.
recipe = lars_1k.vary(
    batch_size=8192,
    schedule=dict(base_lr=30.0, base_batch_size=8192),
    expect=Expectation("top1_error", 26.5, 0.5, "You et al. 2017, Table 4"),
)

if __name__ == "__main__":
    main(recipe)
