"""ResNet-8 on CIFAR-10 at 4,096 images a step with Muon for 64 epochs (Jordan et al. 2024).

The rate is the best of three over 16 epochs (results/cifar10_tuning_muon.json and _wide.json): four times
that of resnet8_4k_muon, which was the largest of a search over 4 epochs.

Run        python recipes/cifar10/resnet8_4k_muon_64ep.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   not yet
"""

from resnet8_4k_muon import recipe as short

from lbtrain import main

# Peak learning rate 0.4793.
recipe = short.vary(duration="64ep", schedule=dict(table=["4096:0.4793"]))

if __name__ == "__main__":
    main(recipe)
