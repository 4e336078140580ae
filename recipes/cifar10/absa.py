"""ResNet-20 on CIFAR-10 from 128 to 16,384 images a step, as the curvature allows, adversarial images at
first (ABSA, Yao et al. 2018).

Rate, milestones and largest batch are those of the authors' example; 90 epochs those of their C1 example. As
in their code images are 0 to 1 and not normalised, so that FGSM's 0.005 is 1.275 grey levels; there is no
augmentation and no weight decay.

Run        torchrun --nproc_per_node 8 recipes/cifar10/absa.py data.root=/data/cifar10
Published  up to 1 point better than earlier large-batch methods, with up to 5 times fewer steps than they
           need (abstract of the first version)
Differs    read in train.py, utils.py and models/resnet.py of amirgholami/HessianFlow: images are clipped at
           black and white (there at the extremes of their batch); which ones are adversarial is drawn by
           position (there the first of a batch); running statistics move once a step (there with every 128
           images); the last 80 images of an epoch are trained on (there they are left out)
Measured   not yet
"""

from lbtrain import Recipe, main

# Peak learning rate 0.1.
recipe = Recipe().vary(
    batch_size=128,
    bn_batch_size=128,
    duration="90ep",
    model=dict(name="cifar_resnet20", args={"projection": True, "zero_init_last": False}),
    data=dict(name="cifar10", augmentation="none", mean=["0", "0", "0"], std=["1", "1", "1"]),
    optimizer=dict(name="sgd", momentum=0.9, weight_decay=0.0),
    schedule=dict(
        base_lr=0.1,
        base_batch_size=128,
        warmup="0ep",
        decay="step",
        milestones=["30ep", "60ep", "80ep"],
        factor=0.2,
    ),
    absa=dict(max_batch_size=16384, adversarial_step=0.005),
    log_every="50it",
)

if __name__ == "__main__":
    main(recipe)
