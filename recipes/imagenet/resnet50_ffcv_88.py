"""ResNet-50 on ImageNet at 4,096 images a step in 88 epochs, the rate of ffcv's configurations (Goyal et al.
2017, the linear rule).

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_ffcv_88.py data.root=/data/imagenet
Published  nothing for exactly this setting; the README of libffcv/ffcv-imagenet has a top-1 error of 21.6 %
Differs    in what resnet50_ffcv_16 lists
Measured   not yet
"""

from resnet50_ffcv_16 import recipe as shortest

from lbtrain import main

# Peak learning rate 1.7.
recipe = shortest.vary(duration="88ep", schedule=dict(image_sizes=["0ep:160", "71ep:192"]))

if __name__ == "__main__":
    main(recipe)
