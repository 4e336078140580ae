"""A reduced AlexNet on Fashion-MNIST at 2,048 images a step with Nesterov's momentum, beside LARS and LAMB
(Nado et al. 2021).

The rate is the best of eight trials (results/fashion_tuning.json).

Run        python recipes/fashion_mnist/fashion_mnist_2k_nesterov.py data.root=/data
Published  nothing: the data set is cut for a laptop
Measured   top-1 error 23.66 ± 0.55 % (n=5, seeds 1001 to 1005, 1 rank; results/fashion_tuning.json)
"""

from fashion_mnist_2k import recipe as linear

from lbtrain import main

# Peak learning rate 0.03343.
recipe = linear.vary(
    optimizer=dict(nesterov=True), schedule=dict(base_lr=0.03343, base_batch_size=2048, rule="none")
)

if __name__ == "__main__":
    main(recipe)
