"""ResNet-8 on CIFAR-10 at 1,024 images a step with nothing else changed, batch norm over the whole batch: the
large batch (Hoffer et al. 2017, Table 1, second arm).

Run        python recipes/cifar10/resnet8_1k.py duration=4ep data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 62.42 ± 0.83 % (n=3, 1 rank; results/cifar10_regime.json)
"""

from resnet8 import recipe as small_batch

from lbtrain import Difference, main

# Peak learning rate 0.1616.
recipe = small_batch.vary(
    batch_size=1024,
    bn_batch_size=1024,
    max_micro_batch_size=1024,
    schedule=dict(rule="none"),
    finding=Difference("cifar10/resnet8", ">0.0", "Hoffer et al. 2017, Table 1"),
)

if __name__ == "__main__":
    main(recipe)
