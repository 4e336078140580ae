"""ResNet-101 on ImageNet at 8,192 images a step (Goyal et al. 2017, Table 2c).

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet101_8k.py data.root=/data/imagenet
Published  top-1 error 22.36 ± 0.09 % (at 256: 22.08 ± 0.06)
Differs    in what resnet50 lists
Measured   not yet
"""

from resnet50_8k import recipe as resnet50

from lbtrain import Expectation, main

# Peak learning rate 3.2.
recipe = resnet50.vary(
    model=dict(name="resnet101"),
    expect=Expectation("top1_error", 22.36, 0.3, "Goyal et al. 2017, Table 2c", evaluations=5),
)

if __name__ == "__main__":
    main(recipe)
