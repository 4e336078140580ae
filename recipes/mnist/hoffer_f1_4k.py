"""Hoffer's fully connected network F1 on MNIST at 4,096 images a step with nothing changed: the large batch
(Hoffer et al. 2017, Table 1, second arm).

Run        torchrun --nproc_per_node 8 recipes/mnist/hoffer_f1_4k.py data.root=/data/mnist
Published  Hoffer et al. 2017, Table 1 (its figures were not at hand; none is stated here)
Differs    in what hoffer_f1 lists
Measured   not yet
"""

from hoffer_f1 import recipe as small_batch

from lbtrain import Difference, main

# Peak learning rate 0.1.
recipe = small_batch.vary(
    batch_size=4096,
    bn_batch_size=4096,
    finding=Difference("mnist/hoffer_f1", ">0.0", "Hoffer et al. 2017, Table 1"),
)

if __name__ == "__main__":
    main(recipe)
