"""ResNet-8 on CIFAR-10 at 4,096 images a step with momentum SGD, its rate tuned at this batch, not scaled.

The rate is the best of eight trials of four epochs (results/cifar10_tuning_4k.json); at other batch sizes
it is that one by the square-root rule.

Run        python recipes/cifar10/resnet8_4k_sgd.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 47.08 ± 6.91 % (n=3, as an arm of the sweep; results/cifar10_curve.json)
"""

from resnet8_4k import recipe as linear

from lbtrain import main

# Peak learning rate 2.166.
recipe = linear.vary(
    schedule=dict(rule="table", table=["1024:1.083", "4096:2.166", "8192:3.063"], warmup_start_lr=0.0)
)

if __name__ == "__main__":
    main(recipe)
