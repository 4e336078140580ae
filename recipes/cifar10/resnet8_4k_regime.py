"""ResNet-8 on CIFAR-10 at 4,096 images a step for as many steps as at 128: square root, ghost batches, regime
adaptation (Hoffer et al. 2017).

512 epochs: seven hours on one core at 1,000 images a second.

Run        python recipes/cifar10/resnet8_4k_regime.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   not yet
"""

from resnet8 import recipe as small_batch

from lbtrain import main

# Peak learning rate 0.9141.
recipe = small_batch.vary(
    batch_size=4096,
    schedule=dict(rule="sqrt", regime_adaptation=True),
    evaluate_every="32ep",
    checkpoint=dict(every="32ep"),
)

if __name__ == "__main__":
    main(recipe)
