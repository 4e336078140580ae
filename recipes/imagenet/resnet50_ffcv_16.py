"""ResNet-50 on ImageNet at 4,096 images a step in 16 epochs, the rate of ffcv's configurations (Goyal et al.
2017, the linear rule).

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_ffcv_16.py data.root=/data/imagenet
Published  nothing for exactly this setting; the README of libffcv/ffcv-imagenet has a top-1 error of 26.2 %
Differs    read in rn50_configs and train_imagenet.py of libffcv/ffcv-imagenet: scored without flips; no
           blurred pooling. Hence no expectation. The resolution is theirs: 160 pixels, 192 from the middle of
           their ramp on (epoch 12), 256 in evaluations
Measured   not yet
"""

from resnet50 import recipe as baseline

from lbtrain import main

# Peak learning rate 1.7.
recipe = baseline.vary(
    batch_size=4096,
    bn_batch_size=512,
    max_micro_batch_size=512,
    duration="16ep",
    model=dict(args={"zero_init_last": False}, head_std=0.0),
    data=dict(image_size=256),
    optimizer=dict(nesterov=False),
    schedule=dict(
        base_lr=1.7,
        base_batch_size=4096,
        warmup="2ep",
        warmup_start_share=1e-4,
        decay="poly",
        power=1.0,
        image_sizes=["0ep:160", "12ep:192"],
    ),
    loss=dict(label_smoothing=0.1),
    precision="fp16",
)

if __name__ == "__main__":
    main(recipe)
