"""ResNet-44 on CIFAR-10 at 128 images a step: the small batch (Hoffer et al. 2017, Table 1, first arm;
settings of the authors' code).

The code's regime multiplies the rate by 0.1 at epochs 81, 122 and 164; that it ends at 200 is our reading (an
example command of theirs stops at 100). data.name=cifar100 is the same on CIFAR-100.

Run        python recipes/cifar10/resnet44.py data.root=/data/cifar10
Published  Hoffer et al. 2017, Table 1 (its figures were not at hand; none is stated here)
Differs    read in main_gbn.py, preprocess.py and models/resnet.py of eladhoffer/bigBatch: the ghost batches
           of a step weigh alike in the running statistics (there the last ones more); crops are padded black
           (there grey, 127)
Measured   not yet
"""

from lbtrain import Recipe, main

# Peak learning rate 0.1.
recipe = Recipe().vary(
    batch_size=128,
    bn_batch_size=128,
    bn_update="ghost_batch",
    duration="200ep",
    model=dict(name="cifar_resnet44", args={"projection": True, "zero_init_last": False}),
    # ImageNet's mean and deviation, as preprocess.py has them for CIFAR too.
    data=dict(
        name="cifar10",
        augmentation="crop_flip",
        mean=["0.485", "0.456", "0.406"],
        std=["0.229", "0.224", "0.225"],
    ),
    optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4, no_decay=[], clip_norm=5.0),
    schedule=dict(
        base_lr=0.1,
        base_batch_size=128,
        rule="none",
        warmup="0ep",
        decay="step",
        milestones=["81ep", "122ep", "164ep"],
        factor=0.1,
    ),
    log_every="50it",
)

if __name__ == "__main__":
    main(recipe)
