"""ResNet-20 on CIFAR-10 from 128 to 16,384 images a step, as the curvature allows, adversarial images at
first (ABSA, Yao et al. 2018).

Rate, milestones, largest batch and weight decay are those of the authors' example and defaults; 90 epochs
those of their C1 example.

Run        torchrun --nproc_per_node 8 recipes/cifar10/absa.py data.root=/data/cifar10
Published  up to 1 point over large-batch training before it, with up to 5 times fewer steps than SGD
           (abstract of the first version)
Measured   not yet
"""

from lbtrain import Recipe, main

# Peak learning rate 0.1.
recipe = Recipe().vary(
    batch_size=128,
    bn_batch_size=128,
    duration="90ep",
    model=dict(name="cifar_resnet20"),
    data=dict(name="cifar10", augmentation="crop_flip"),
    optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
    schedule=dict(
        base_lr=0.1,
        base_batch_size=128,
        warmup="0ep",
        decay="step",
        milestones=["30ep", "60ep", "80ep"],
        factor=0.2,
    ),
    absa=dict(max_batch_size=16384),
    log_every="50it",
)

if __name__ == "__main__":
    main(recipe)
