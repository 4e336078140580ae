"""ResNet-8 on CIFAR-10 at 4,096 images a step by the linear rule, with a gradual warm-up and ghost batches of
128 (Goyal et al. 2017, section 2).

Run        python recipes/cifar10/resnet8_4k.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 64.46 ± 10.13 % (n=3, as an arm of the sweep; results/cifar10_curve.json)
"""

from resnet8 import recipe as baseline

from lbtrain import main

# Peak learning rate 5.171.
recipe = baseline.vary(batch_size=4096, schedule=dict(warmup="0.125dur"))

if __name__ == "__main__":
    main(recipe)
