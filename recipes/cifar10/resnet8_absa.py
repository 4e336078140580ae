"""ResNet-8 on CIFAR-10 from 128 to 4,096 images a step, as the curvature allows, adversarial images at first
(ABSA, Yao et al. 2018). The batch also doubles after 4 measurements without growth, of sixteen; the authors'
code waits for 10.

Run        python recipes/cifar10/resnet8_absa.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 20.67 ± 0.13 % (n=3, 1 rank; results/cifar10_absa.json)
"""

from resnet8 import recipe as baseline

from lbtrain import Difference, main

# Peak learning rate 0.1616.
recipe = baseline.vary(
    absa=dict(max_batch_size=4096, patience=4),
    finding=Difference("cifar10/resnet8", "<=1.0", "Yao et al. 2018, abstract; the bound is ours"),
)

if __name__ == "__main__":
    main(recipe)
