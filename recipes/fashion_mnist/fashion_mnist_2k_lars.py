"""A reduced AlexNet on Fashion-MNIST at 2,048 images a step with LARS (You et al. 2017).

The learning rate was chosen on seed 100, out of 1, 2, 3, 4, 8 and 16.

Run        python recipes/fashion_mnist/fashion_mnist_2k_lars.py data.root=/data
Published  nothing: the data set is cut for a laptop
Measured   top-1 error 28.69 ± 5.39 % (n=5, 1 rank; results/fashion_methods.json)
"""

from fashion_mnist_2k import recipe as linear

from lbtrain import main

# Peak learning rate 3.
recipe = linear.vary(
    optimizer=dict(name="lars", trust_coefficient=0.001),
    schedule=dict(base_lr=3.0, base_batch_size=2048, rule="sqrt", decay="poly", power=2.0),
)

if __name__ == "__main__":
    main(recipe)
