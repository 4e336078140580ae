"""ResNet-50 on ImageNet at 4,096 images a step in 40 epochs, the rate of ffcv's configurations (Goyal et al.
2017, the linear rule).

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_ffcv_40.py data.root=/data/imagenet
Published  nothing for exactly this setting; the README of libffcv/ffcv-imagenet has a top-1 error of 22.8 %
Differs    in what resnet50_ffcv_16 lists
Measured   not yet
"""

from resnet50_ffcv_16 import recipe as shortest

from lbtrain import main

# Peak learning rate 1.7.
recipe = shortest.vary(duration="40ep", schedule=dict(image_sizes=["0ep:160", "32ep:192"]))

if __name__ == "__main__":
    main(recipe)
