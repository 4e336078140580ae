"""A reduced AlexNet on Fashion-MNIST at 2,048 images a step with linear scaling and a gradual warm-up (Goyal
et al. 2017, section 2).

Run        python recipes/fashion_mnist/fashion_mnist_2k.py data.root=/data
Published  nothing: the data set is cut for a laptop
Measured   diverged (n=5, 1 rank; results/fashion_methods.json)
"""

from fashion_mnist_2k_unscaled import recipe as unscaled

from lbtrain import main

# Peak learning rate 1.28.
recipe = unscaled.vary(schedule=dict(rule="linear", warmup="2ep", warmup_start_lr=0.0))

if __name__ == "__main__":
    main(recipe)
