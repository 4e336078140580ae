"""ResNet-50 on ImageNet at 8,192 images a step: linear scaling and gradual warm-up (Goyal et al. 2017, Table
1 and Figure 2c).

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_8k.py data.root=/data/imagenet
Published  top-1 error 23.74 ± 0.09 % (baseline at 256: 23.60 ± 0.12)
Differs    in what resnet50 lists
Measured   not yet
"""

from resnet50 import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 3.2.
recipe = baseline.vary(
    batch_size=8192, expect=Expectation("top1_error", 23.74, 0.3, "Goyal et al. 2017, Table 1", evaluations=5)
)

if __name__ == "__main__":
    main(recipe)
