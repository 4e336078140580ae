"""Hoffer's fully connected network F1 on MNIST at 128 images a step: the small batch (Hoffer et al. 2017,
Table 1, first arm; settings of the authors' code).

Run        python recipes/mnist/hoffer_f1.py data.root=/data/mnist
Published  Hoffer et al. 2017, Table 1 (its figures were not at hand; none is stated here)
Differs    read in main_gbn.py, preprocess.py and models/mnist_f1.py of eladhoffer/bigBatch: the ghost batches
           of a step weigh alike in the running statistics (there the last ones more)
Measured   not yet
"""

from lbtrain import Recipe, main

# Peak learning rate 0.1.
recipe = Recipe().vary(
    batch_size=128,
    bn_batch_size=128,
    bn_update="ghost_batch",
    duration="50ep",
    model=dict(name="keskar_f1", args={"glorot": False}),
    data=dict(name="mnist", augmentation="crop_flip", mean=["0.5"], std=["0.5"]),
    optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4, no_decay=[], clip_norm=5.0),
    schedule=dict(
        base_lr=0.1,
        base_batch_size=128,
        rule="none",
        warmup="0ep",
        decay="step",
        milestones=["10ep", "20ep", "30ep"],
        factor=0.1,
    ),
    log_every="50it",
)

if __name__ == "__main__":
    main(recipe)
