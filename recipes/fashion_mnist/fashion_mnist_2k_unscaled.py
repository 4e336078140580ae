"""A reduced AlexNet on Fashion-MNIST at 2,048 images a step, half the training set, with nothing scaled.

Run        python recipes/fashion_mnist/fashion_mnist_2k_unscaled.py data.root=/data
Published  nothing: the data set is cut for a laptop
Measured   top-1 error 26.06 ± 0.74 % (n=5, 1 rank; results/fashion_methods.json)
"""

from fashion_mnist import recipe as baseline

from lbtrain import main

# Peak learning rate 0.02.
recipe = baseline.vary(
    batch_size=2048,
    bn_momentum=0.5,
    schedule=dict(rule="none", warmup="0ep", warmup_start_lr=None),
    log_every="1it",
)

if __name__ == "__main__":
    main(recipe)
