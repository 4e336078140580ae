"""DeiT-S on ImageNet at 1,024 images a step with AdamW (Touvron et al. 2021, DeiT).

Augmentation does what distillation was thought to be needed for: RandAugment, mixup and CutMix, random
erasing and three copies of each image.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/deit_s.py data.root=/data/imagenet
Published  top-1 error 20.10 % (README of facebookresearch/deit: an accuracy of 79.9 %)
Differs    read in main.py, datasets.py and README_deit.md of facebookresearch/deit: fp32 (there fp16); the
           rate falls at every step (there at every epoch); crops are resampled by libjpeg-turbo and torch
           (there by Pillow)
Measured   not yet
"""

from lbtrain import Expectation, Recipe, main

# Peak learning rate 0.001.
recipe = Recipe().vary(
    batch_size=1024,
    bn_batch_size=256,  # images that are mixed with each other: those of a GPU there
    max_micro_batch_size=128,
    duration="300ep",
    model=dict(name="deit_small_patch16_224", drop_path=0.1),
    data=dict(
        name="imagenet",
        augmentation="imagenet",
        auto_augment="rand-m9-mstd0.5-inc1",
        random_erasing=0.25,
        erasing_mode="pixel",
        repeats=3,
        crop_share=0.875,
        workers=8,
    ),
    optimizer=dict(
        name="adamw", weight_decay=0.05, no_decay=["norm", "bias", "pos_embed", "cls_token"], eps=1e-8
    ),
    schedule=dict(
        base_lr=5e-4,
        base_batch_size=512,
        warmup="5ep",
        warmup_start_lr=1e-6,
        decay="cosine",
        decay_from="start",
        end_lr=1e-5,
    ),
    loss=dict(label_smoothing=0.1, mixup=0.8, cutmix=1.0),
    ema=dict(decay=0.99996),
    log_every="50it",
    expect=Expectation("top1_error", 20.1, 0.5, "Touvron et al. 2021, README_deit.md"),
)

if __name__ == "__main__":
    main(recipe)
