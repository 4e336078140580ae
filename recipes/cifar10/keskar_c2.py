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

from keskar_c1 import recipe as shallow

from lbtrain import main

# Peak learning rate 0.001.
recipe = shallow.vary(model=dict(name="keskar_c2"))

if __name__ == "__main__":
    main(recipe)
