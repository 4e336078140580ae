"""A reduced AlexNet on Fashion-MNIST at 2,048 images a step with LAMB (You et al. 2019).

The learning rate was chosen on seed 100, not on those that a study starts with.

Run        python recipes/fashion_mnist/fashion_mnist_2k_lamb.py data.root=/data
Published  nothing: the data set is cut for a laptop
Measured   top-1 error 22.76 ± 0.89 % (n=5, 1 rank; results/fashion_methods.json)
"""

from fashion_mnist_2k import recipe as linear

from lbtrain import main

# Peak learning rate 0.02.
recipe = linear.vary(
    optimizer=dict(name="lamb", weight_decay=0.01),
    schedule=dict(base_lr=0.02, base_batch_size=2048, rule="sqrt"),
)

if __name__ == "__main__":
    main(recipe)
