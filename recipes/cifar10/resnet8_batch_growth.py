"""ResNet-8 on CIFAR-10 from 128 to 2,048 images a step: the batch grows fourfold twice, in place of a decay
of the rate (Smith et al. 2018).

Run        python recipes/cifar10/resnet8_batch_growth.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 21.21 ± 0.66 % (n=3, 1 rank; results/cifar10_methods.json)
"""

from resnet8 import recipe as baseline

from lbtrain import main

# Peak learning rate 0.1616.
recipe = baseline.vary(
    schedule=dict(decay="none", batch_growth=["8ep:4", "12ep:4"]),
)

if __name__ == "__main__":
    main(recipe)
