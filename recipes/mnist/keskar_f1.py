"""Keskar's fully connected network F1 on MNIST at 256 images a step with Adam: the small batch (Keskar et al.
2017, Table 2).

20 epochs are ours; the paper trains until the loss stops improving, so that its errors are no expectation
of this recipe. model.name=keskar_f2 is the network of F2, whose data (TIMIT) are licensed.

Run        python recipes/mnist/keskar_f1.py data.root=/data/mnist
Published  top-1 error 1.97 ± 0.07 % (other settings not stated; 5 runs)
Differs    in the scale of the images (0 to 1, as in the authors' code for CIFAR-10) and in the initial
           weights (Keras's), which the paper does not state
Measured   not yet
"""

from lbtrain import Recipe, main

# Peak learning rate 0.001.
recipe = Recipe().vary(
    batch_size=256,
    bn_batch_size=256,
    duration="20ep",
    model=dict(name="keskar_f1"),
    data=dict(name="mnist", mean=["0"], std=["1"]),
    optimizer=dict(name="adamw", weight_decay=0.0, eps=1e-8),
    schedule=dict(base_lr=0.001, base_batch_size=256, rule="none", warmup="0ep", decay="none"),
    log_every="1ep",
)

if __name__ == "__main__":
    main(recipe)
