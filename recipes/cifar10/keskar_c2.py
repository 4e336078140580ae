"""Keskar's deep network C2 on CIFAR-10 at 256 images a step with Adam: the small batch (Keskar et al. 2017,
Table 2).

20 epochs are those of the authors' code; the paper trains until the loss stops improving, so that its
errors are no expectation of this recipe. data.name=cifar100 is its network C4.

Run        python recipes/cifar10/keskar_c2.py data.root=/data/cifar10
Published  top-1 error 10.76 ± 0.12 % (other settings not stated; 5 runs)
Differs    read in network_zoo.py and plot_parametric_plot.py of keskarnitish/large-batch-training: an
           evaluation takes running statistics (there those of its own batches); the last images of an epoch,
           fewer than a batch, belong to the next step (there they are a step); pooling windows are not
           shifted (there by a pixel)
Measured   not yet
"""

from lbtrain import Recipe, main

# Peak learning rate 0.001.
recipe = Recipe().vary(
    batch_size=256,
    bn_batch_size=256,
    duration="20ep",
    model=dict(name="keskar_c2"),
    data=dict(name="cifar10", mean=["0", "0", "0"], std=["1", "1", "1"]),
    optimizer=dict(name="adamw", weight_decay=0.0, eps=1e-8),
    schedule=dict(base_lr=0.001, base_batch_size=256, rule="none", warmup="0ep", decay="none"),
    log_every="1ep",
)

if __name__ == "__main__":
    main(recipe)
