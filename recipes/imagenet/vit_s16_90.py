"""ViT-S/16 on ImageNet at 1,024 images a step with AdamW, 90 epochs (Beyer et al. 2022, "Better plain ViT
baselines").

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/vit_s16_90.py data.root=/data/imagenet
Published  nothing for exactly this setting; the header of big_vision's configuration has a top-1 error of
           23.5 %
Differs    read in configs/vit_s16_i1k.py and models/vit.py of big_vision: learned positions (there fixed
           sines); no hidden layer with tanh before the classifier (there one of 384); trained on all of train
           (there on 99 %); timm's RandAugment, two operators of magnitude 10 (there big_vision's); moments in
           fp32 (there bfloat16). Hence no expectation
Measured   not yet
"""

from lbtrain import Recipe, main

# Peak learning rate 0.001.
recipe = Recipe().vary(
    batch_size=1024,
    bn_batch_size=128,  # images that are mixed with each other
    max_micro_batch_size=128,
    duration="90ep",
    model=dict(
        name="vit_small_patch16_224",
        args={"global_pool": "avg", "class_token": False, "fc_norm": False, "weight_init": "jax"},
    ),
    data=dict(
        name="imagenet",
        augmentation="imagenet",
        min_crop_area=0.05,
        auto_augment="rand-m10-n2",
        mean=["0.5", "0.5", "0.5"],
        std=["0.5", "0.5", "0.5"],
        crop_share=0.875,
        interpolation="bilinear",
        workers=8,
    ),
    # Decoupled from the rate there: 1e-4 a step at a rate of 1e-3.
    optimizer=dict(
        name="adamw", weight_decay=0.1, no_decay=["norm", "bias", "pos_embed"], eps=1e-8, clip_norm=1.0
    ),
    schedule=dict(
        base_lr=0.001,
        base_batch_size=1024,
        rule="none",
        warmup="10000it",
        warmup_start_lr=0.0,
        decay="cosine",
    ),
    loss=dict(mixup=0.2),
    log_every="50it",
)

if __name__ == "__main__":
    main(recipe)
