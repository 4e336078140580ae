"""ResNet-50 on ImageNet at 32,768 images a step with LARS, as the paper trained it: rate 40, 12 epochs of
warm-up (You et al. 2017, Table 4).

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_you_32k.py data.root=/data/imagenet
Published  top-1 error 27.5 % (one run, minimal augmentation; extended: 27.5 %)
Differs    in what resnet50_you lists
Measured   not yet
"""

from resnet50_you_16k import recipe as lars_16k

from lbtrain import Expectation, main

# Peak learning rate 40.
recipe = lars_16k.vary(
    batch_size=32768,
    schedule=dict(base_lr=40.0, base_batch_size=32768),
    expect=Expectation("top1_error", 27.5, 0.5, "You et al. 2017, Table 4"),
)

if __name__ == "__main__":
    main(recipe)
