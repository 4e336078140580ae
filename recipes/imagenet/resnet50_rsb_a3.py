"""ResNet-50 on ImageNet at 2,048 images a step with LAMB and binary cross-entropy, 100 epochs (Wightman et
al. 2021, procedure A3).

mmpretrain trains at 224 pixels; schedule.image_sizes=0ep:160 at the 160 of the paper and of openmixup.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_rsb_a3.py data.root=/data/imagenet
Published  nothing for exactly this setting; mmpretrain's run has a top-1 error of 21.70 %
Differs    in what resnet50_rsb_a1 lists
Measured   not yet
"""

from resnet50_rsb_a2 import recipe as a2

from lbtrain import main

# Peak learning rate 0.008.
recipe = a2.vary(
    duration="100ep",
    model=dict(drop_path=0.0),
    data=dict(auto_augment="rand-m6-mstd0.5-inc1", repeats=1),
    schedule=dict(base_lr=0.008),
)

if __name__ == "__main__":
    main(recipe)
