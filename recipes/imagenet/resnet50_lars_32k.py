"""ResNet-50 on ImageNet at 32,768 images a step with LARS (You et al. 2017): rate 32, and more warm-up than
the linear rule gives.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_lars_32k.py data.root=/data/imagenet
Published  top-1 error 23.25 % (independent re-implementation NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch; the
           paper: 27.5 %)
Differs    in what resnet50_lars_8k lists
Measured   not yet
"""

from resnet50_lars_8k import recipe as lars_8k

from lbtrain import Expectation, main

# Peak learning rate 32.
recipe = lars_8k.vary(
    batch_size=32768,
    bn_batch_size=64,
    optimizer=dict(eps=0.0),
    schedule=dict(warmup="14ep", warmup_rule="none"),
    expect=Expectation("top1_error", 23.25, 0.5, "NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch, README table"),
)

if __name__ == "__main__":
    main(recipe)
