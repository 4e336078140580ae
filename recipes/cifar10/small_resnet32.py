"""ResNet-32 on CIFAR-10 at 8 images a step with augmentation (Masters & Luschi 2018, section 3.3 and Figure
8).

The grid around it: batch_size=2 to 256 (bn_batch_size with it); rates of 2^-12 to 1 per example;
data.augmentation=none (Figure 7); model.args={batch_norm: false} (section 3.2); bn_batch_size=4 at any larger
batch (Figure 13); data.name=cifar100 duration=164ep (Figure 9).

Run        python recipes/cifar10/small_resnet32.py data.root=/data/cifar10
Published  best between 4 and 8 images, with augmentation and without (figures without numbers)
Differs    what the paper does not state is ours: shortcuts without parameters, a last gamma of 0 in each
           block, no weight decay of batch norm and biases, crops padded black
Measured   not yet
"""

from lbtrain import BestBatch, Recipe, main

# Peak learning rate 0.03125.
recipe = Recipe().vary(
    batch_size=8,
    bn_batch_size=8,
    duration="82ep",
    model=dict(name="cifar_resnet32"),
    data=dict(name="cifar10", augmentation="crop_flip"),
    optimizer=dict(name="sgd", momentum=0.0, weight_decay=1e-4),
    # The paper's rate is per example, for a loss summed over the batch: lr / m = 2^-8, the rate of its Figure
    # 4.
    schedule=dict(
        base_lr=2**-8,
        base_batch_size=1,
        rule="linear",
        warmup="0ep",
        decay="step",
        milestones=["0.5dur", "0.75dur"],
        factor=0.1,
    ),
    log_every="500it",
    finding=BestBatch(4, 8, "Masters & Luschi 2018, Figure 8"),
)


if __name__ == "__main__":
    main(recipe)
