"""ResNet-50 on ImageNet at 2,048 images a step with LAMB and binary cross-entropy, 600 epochs (Wightman et
al. 2021, procedure A1).

The settings are those of mmpretrain's configuration, whose runs are published with their logs.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_rsb_a1.py data.root=/data/imagenet
Published  nothing for exactly this setting; mmpretrain's run has a top-1 error of 19.88 %
Differs    read in mmpretrain's configurations, lamb.py, resnet.py and cross_entropy_loss.py: batch norm
           over 256 images (there over all 2,048); the rate falls at every step (there at every epoch); crops
           are resampled by libjpeg-turbo and torch (there by Pillow). Hence no expectation
Measured   not yet
"""

from resnet50 import recipe as baseline

from lbtrain import main

# Peak learning rate 0.005.
recipe = baseline.vary(
    batch_size=2048,
    bn_batch_size=256,
    max_micro_batch_size=256,
    duration="600ep",
    model=dict(drop_path=0.05),
    data=dict(
        auto_augment="rand-m7-mstd0.5-inc1",
        repeats=3,
        crop_share=0.949152542373,  # 224 of 236 pixels
        interpolation="bicubic",
    ),
    # There the loss is the sum over the 1,000 classes, clipped at a norm of 1, beside an epsilon of 1e-6.
    optimizer=dict(
        name="lamb", nesterov=False, weight_decay=0.01, no_decay=["norm", "bias"], clip_norm=1e-3, eps=1e-9
    ),
    schedule=dict(
        base_lr=0.005,
        base_batch_size=2048,
        rule="none",
        warmup="5ep",
        warmup_start_share=1e-4,
        decay="cosine",
        end_lr=1e-6,
    ),
    loss=dict(form="binary_cross_entropy", label_smoothing=0.1, mixup=0.2, cutmix=1.0),
)

if __name__ == "__main__":
    main(recipe)
