"""Wide ResNet 16-4 on CIFAR-10 at 1,024 images a step in 30 epochs: meant to reach 94 % soon (linear rule:
Goyal et al. 2017, section 2.1).

bench/gpu.py takes the time of it. The rate falls in a straight line, as short runs usually have it.

Run        python recipes/cifar10/wide_resnet_1k.py data.root=/data/cifar10
Published  nothing: a setting of our own
Measured   not yet
"""

from wide_resnet import recipe as original

from lbtrain import main

# Peak learning rate 0.8.
recipe = original.vary(
    batch_size=1024,
    duration="30ep",
    precision="bf16",
    channels_last=True,
    loss=dict(label_smoothing=0.1),
    # The parent's milestones and factor do nothing under poly: they are the defaults again.
    schedule=dict(warmup="5ep", decay="poly", power=1.0, milestones=["30ep", "60ep", "80ep"], factor=0.1),
    log_every="0.5ep",
)

if __name__ == "__main__":
    main(recipe)
