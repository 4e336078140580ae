"""ResNet-50 on ImageNet at 16,384 images a step with LARS, as the paper trained it: rate 33, 12 epochs of
warm-up (You et al. 2017, Table 4).

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_you_16k.py data.root=/data/imagenet
Published  top-1 error 27.1 % (one run, minimal augmentation; extended: 25.6 %)
Differs    in what resnet50_you lists
Measured   not yet
"""

from resnet50_you_1k import recipe as lars_1k

from lbtrain import Expectation, main

# Peak learning rate 33.
recipe = lars_1k.vary(
    batch_size=16384,
    schedule=dict(base_lr=33.0, base_batch_size=16384, warmup="12ep"),
    expect=Expectation("top1_error", 27.1, 0.5, "You et al. 2017, Table 4"),
)

if __name__ == "__main__":
    main(recipe)
