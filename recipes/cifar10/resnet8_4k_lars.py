"""ResNet-8 on CIFAR-10 at 4,096 images a step with LARS (You et al. 2017).

The rate is the best of eight trials of four epochs (results/cifar10_tuning_4k.json); at other batch sizes
it is that one by the square-root rule.

Run        python recipes/cifar10/resnet8_4k_lars.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 37.89 ± 0.30 % (n=3, as an arm of the sweep; results/cifar10_curve.json)
"""

from resnet8_4k import recipe as linear

from lbtrain import main

# Peak learning rate 16.16.
recipe = linear.vary(
    optimizer=dict(name="lars", weight_decay=5e-4),
    schedule=dict(rule="table", table=["1024:8.08", "4096:16.16", "8192:22.85"], warmup_start_lr=0.0),
)

if __name__ == "__main__":
    main(recipe)
