"""ConvNeXt-T on ImageNet at 4,096 images a step with AdamW (Liu et al. 2022, ConvNeXt).

The published number is that of the averaged weights.

Run        deepspeed --hostfile hostfiles/8x8 recipes/imagenet/convnext_t.py data.root=/data/imagenet
Published  top-1 error 17.90 % (README of facebookresearch/ConvNeXt: an accuracy of 82.1 %)
Differs    in what deit_s lists, but for the precision and for the schedule, which falls at every step there
           too; read in main.py, TRAINING.md, datasets.py and README.md of facebookresearch/ConvNeXt
Measured   not yet
"""

from deit_s import recipe as deit_s

from lbtrain import Expectation, main

# Peak learning rate 0.004.
recipe = deit_s.vary(
    batch_size=4096,
    bn_batch_size=128,
    model=dict(name="convnext_tiny", drop_path=0.1),
    data=dict(repeats=1),
    optimizer=dict(no_decay=["norm", "bias", "*.gamma"]),
    schedule=dict(
        base_lr=4e-3,
        base_batch_size=4096,
        warmup="20ep",
        warmup_start_lr=0.0,
        decay_from="warmup_end",
        end_lr=1e-6,
    ),
    ema=dict(decay=0.9999),
    expect=Expectation("ema_top1_error", 17.9, 0.5, "Liu et al. 2022, README"),
)

if __name__ == "__main__":
    main(recipe)
