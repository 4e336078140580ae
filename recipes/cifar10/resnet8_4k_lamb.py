"""ResNet-8 on CIFAR-10 at 4,096 images a step with LAMB (You et al. 2019).

The rate is the best of eight trials of four epochs (results/cifar10_tuning_4k.json); at other batch sizes
it is that one by the square-root rule.

Run        python recipes/cifar10/resnet8_4k_lamb.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 33.50 ± 0.68 % (n=3, as an arm of the sweep; results/cifar10_curve.json)
"""

from resnet8_4k import recipe as linear

from lbtrain import main

# Peak learning rate 0.05675.
recipe = linear.vary(
    optimizer=dict(name="lamb", weight_decay=0.01),
    schedule=dict(
        rule="table",
        table=["1024:0.02838", "4096:0.05675", "8192:0.08026", "16384:0.1135"],
        warmup_start_lr=0.0,
    ),
)

if __name__ == "__main__":
    main(recipe)
