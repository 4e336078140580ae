"""Swin-T on ImageNet at 1,024 images a step with AdamW (Liu et al. 2021, Swin).

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/swin_t.py data.root=/data/imagenet
Published  top-1 error 18.80 % (get_started.md of microsoft/Swin-Transformer: an accuracy of 81.2 %)
Differs    in what deit_s lists, but for the schedule, which falls at every step there too; read in
           config.py, lr_scheduler.py and get_started.md of microsoft/Swin-Transformer
Measured   not yet
"""

from deit_s import recipe as deit_s

from lbtrain import Expectation, main

# Peak learning rate 0.001.
recipe = deit_s.vary(
    bn_batch_size=128,
    model=dict(name="swin_tiny_patch4_window7_224", drop_path=0.2),
    data=dict(repeats=1),
    optimizer=dict(no_decay=["norm", "bias", "*relative_position_bias_table"], clip_norm=5.0),
    schedule=dict(warmup="20ep"),
    ema=dict(decay=0.0),
    expect=Expectation("top1_error", 18.8, 0.5, "Liu et al. 2021, get_started.md"),
)

if __name__ == "__main__":
    main(recipe)
