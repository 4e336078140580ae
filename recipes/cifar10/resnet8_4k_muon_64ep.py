"""ResNet-8 on CIFAR-10 at 4,096 images a step with Muon for 64 epochs (Jordan et al. 2024).

Rate, momentum and AdamW's rate are the best of eight trials of 16 epochs
(results/cifar10_tuning_muon_momentum.json): six times the rate of resnet8_4k_muon, which was the largest of a
search over 4 epochs, and a momentum of 0.8 where Jordan et al. take 0.95. In fp32, as the other runs of 64
epochs that it is compared with.

Run        python recipes/cifar10/resnet8_4k_muon_64ep.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 16.60 ± 0.08 % (n=3, as an arm of the sweep; results/cifar10_long.json)
"""

from resnet8_4k_muon import recipe as short

from lbtrain import main

# Peak learning rate 0.6443.
recipe = short.vary(
    duration="64ep",
    precision="fp32",
    optimizer=dict(momentum=0.805, adamw_lr_ratio=0.1351),
    schedule=dict(table=["4096:0.6443"]),
)

if __name__ == "__main__":
    main(recipe)
