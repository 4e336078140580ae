"""ResNet-8 on CIFAR-10 at 8 images a step without momentum, the rate stated per example (Masters & Luschi
2018).

Run        python recipes/cifar10/resnet8_small_batch.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 22.90 ± 0.39 % (n=3, 1 rank; results/cifar10_small_batch.json)
"""

from resnet8 import recipe as baseline

from lbtrain import main

# Peak learning rate 0.0625.
recipe = baseline.vary(
    batch_size=8,
    bn_batch_size=8,
    bn_momentum=0.01,
    optimizer=dict(momentum=0.0),
    schedule=dict(
        base_lr=2**-7,
        base_batch_size=1,
        decay="step",
        milestones=["0.5dur", "0.75dur"],
        factor=0.1,
    ),
)

if __name__ == "__main__":
    main(recipe)
