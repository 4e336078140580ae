"""ResNet-8 on CIFAR-10 at 4,096 images a step, in ghost batches of 128, with nothing scaled.

Run        python recipes/cifar10/resnet8_4k_unscaled.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 61.98 ± 0.76 % (n=3, as an arm of the sweep; results/cifar10_curve.json)
"""

from resnet8 import recipe as baseline

from lbtrain import main

# Peak learning rate 0.1616.
recipe = baseline.vary(batch_size=4096, schedule=dict(rule="none"))

if __name__ == "__main__":
    main(recipe)
