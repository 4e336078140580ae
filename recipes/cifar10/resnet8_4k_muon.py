"""ResNet-8 on CIFAR-10 at 4,096 images a step with Muon, and AdamW for the rest (Jordan et al. 2024).

The rate is the best of eight trials of four epochs (results/cifar10_tuning_4k.json); at other batch sizes
it is that one by the square-root rule.

Run        python recipes/cifar10/resnet8_4k_muon.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 30.52 ± 0.35 % (n=3, 2 ranks under deepspeed; results/cifar10_two_ranks.json)
"""

from resnet8_4k import recipe as linear

from lbtrain import main

# Peak learning rate 0.1135.
recipe = linear.vary(
    optimizer=dict(name="muon", weight_decay=0.01, adamw_lr_ratio=0.2),
    schedule=dict(
        rule="table",
        table=["1024:0.05675", "4096:0.1135", "8192:0.1605", "16384:0.227"],
        warmup_start_lr=0.0,
    ),
)

if __name__ == "__main__":
    main(recipe)
