"""ResNet-50 on ImageNet at 2,048 images a step with LAMB and binary cross-entropy, 300 epochs (Wightman et
al. 2021, procedure A2).

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_rsb_a2.py data.root=/data/imagenet
Published  nothing for exactly this setting; mmpretrain's run has a top-1 error of 20.45 %
Differs    in what resnet50_rsb_a1 lists
Measured   not yet
"""

from resnet50_rsb_a1 import recipe as a1

from lbtrain import main

# Peak learning rate 0.005.
recipe = a1.vary(
    duration="300ep", optimizer=dict(weight_decay=0.02), loss=dict(label_smoothing=0.0, mixup=0.1)
)

if __name__ == "__main__":
    main(recipe)
