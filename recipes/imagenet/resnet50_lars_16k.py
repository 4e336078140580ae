"""ResNet-50 on ImageNet at 16,384 images a step with LARS (You et al. 2017): rate 22.6 and 5 epochs of
warm-up by its parent's rules.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_lars_16k.py data.root=/data/imagenet
Published  top-1 error 23.04 % (independent re-implementation NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch; the
           paper: 25.6 %)
Differs    in what resnet50_lars_8k lists
Measured   not yet
"""

from resnet50_lars_8k import recipe as lars_8k

from lbtrain import Expectation, main

# Peak learning rate 22.63.
recipe = lars_8k.vary(
    batch_size=16384,
    expect=Expectation("top1_error", 23.04, 0.5, "NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch, README table"),
)

if __name__ == "__main__":
    main(recipe)
