"""ResNet-50 on ImageNet at 1,024 images a step with LARS, as the paper trained it: rate 9, 5 epochs of
warm-up (You et al. 2017, Table 4).

Run        deepspeed --hostfile hostfiles/4x8 recipes/imagenet/resnet50_you_1k.py data.root=/data/imagenet
Published  top-1 error 26.7 % (one run, minimal augmentation; extended: 24.6 %)
Differs    in what resnet50_you lists
Measured   not yet
"""

from resnet50_you import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 9.
recipe = baseline.vary(
    batch_size=1024,
    # Eight GPUs: what larger batches accumulate.
    bn_batch_size=128,
    schedule=dict(
        base_lr=9.0,
        base_batch_size=1024,
        warmup="5ep",
        warmup_start_lr=0.0,
        decay_from="start",
    ),
    expect=Expectation("top1_error", 26.7, 0.5, "You et al. 2017, Table 4"),
)

if __name__ == "__main__":
    main(recipe)
