"""ResNet-50 on ImageNet at 1,024 images a step with SGD, 600 epochs: torchvision's second recipe (Goyal et
al. 2017, the linear rule).

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_torchvision.py
           data.root=/data/imagenet
Published  nothing to be held to: the settings are copies of pytorch/vision issue 3995; its weights have a
           top-1 error of 19.14 %
Differs    the rate changes at every step (there at every epoch); the average moves at every step (there by
           0.0011 every 32 steps, which is 0.9999658 a step, and it begins anew until the warm-up ends)
Measured   not yet
"""

from resnet50 import recipe as baseline

from lbtrain import main

# Peak learning rate 0.5.
recipe = baseline.vary(
    batch_size=1024,
    bn_batch_size=128,
    duration="600ep",
    model=dict(args={"zero_init_last": False}, head_std=0.0),
    data=dict(auto_augment="ta_wide", random_erasing=0.1, repeats=4, image_size=224, crop_share=224 / 232),
    optimizer=dict(nesterov=False, weight_decay=2e-5),
    schedule=dict(
        base_lr=0.5,
        base_batch_size=1024,
        warmup="5ep",
        warmup_start_share=0.01,
        decay="cosine",
        image_sizes=["0ep:176"],  # scored at data.image_size
    ),
    loss=dict(label_smoothing=0.1, mixup=0.2, cutmix=1.0),
    ema=dict(decay=0.9999658),
)

if __name__ == "__main__":
    main(recipe)
