"""Hoffer's shallow network C1 on CIFAR-10 at 128 images a step: the small batch (Hoffer et al. 2017, Table 1,
first arm; settings of the authors' code).

Run        python recipes/cifar10/hoffer_c1.py data.root=/data/cifar10
Published  Hoffer et al. 2017, Table 1 (its figures were not at hand; none is stated here)
Differs    read in main_gbn.py, preprocess.py and models/cifar_shallow.py of eladhoffer/bigBatch: the ghost
           batches of a step weigh alike in the running statistics (there the last ones more); crops are
           padded black (there grey, 127)
Measured   not yet
"""

from resnet44 import recipe as resnet44

from lbtrain import main

# Peak learning rate 0.01.
recipe = resnet44.vary(
    model=dict(name="hoffer_c1", args={}),
    optimizer=dict(momentum=0.0, weight_decay=5e-4),
    # The regime of the code: 0.001, from epoch 60 on 0.01, from 120 on 0.001, from 180 on 0.0001.
    schedule=dict(
        base_lr=0.01,
        warmup="60ep",
        warmup_form="constant",
        warmup_start_share=0.1,
        milestones=["120ep", "180ep"],
    ),
)

if __name__ == "__main__":
    main(recipe)
