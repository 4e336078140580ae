"""A reduced AlexNet on Fashion-MNIST at 2,048 images a step with Nesterov's momentum, beside LARS and LAMB
(Nado et al. 2021).

Run        python recipes/fashion_mnist/fashion_mnist_2k_nesterov.py data.root=/data
Published  nothing: the data set is cut for a laptop
Measured   not yet
"""

from fashion_mnist_2k import recipe as linear

from lbtrain import main

# Peak learning rate 0.2.
recipe = linear.vary(
    optimizer=dict(nesterov=True), schedule=dict(base_lr=0.2, base_batch_size=2048, rule="none")
)

if __name__ == "__main__":
    main(recipe)
