"""ResNet-8 on CIFAR-10 at 4,096 images a step with AdamW (Loshchilov & Hutter 2019).

The rate is the best of eight trials of four epochs (results/cifar10_tuning_4k.json); at other batch sizes
it is that one by the square-root rule.

Run        python recipes/cifar10/resnet8_4k_adamw.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 39.97 ± 1.46 % (n=3, as an arm of the sweep; results/cifar10_curve.json)
"""

from resnet8_4k import recipe as linear

from lbtrain import main

# Peak learning rate 0.0227.
recipe = linear.vary(
    optimizer=dict(name="adamw", weight_decay=0.05),
    schedule=dict(rule="table", table=["1024:0.01135", "4096:0.0227", "8192:0.0321"], warmup_start_lr=0.0),
)

if __name__ == "__main__":
    main(recipe)
