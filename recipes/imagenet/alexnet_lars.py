"""AlexNet on ImageNet at 512 images a step with LARS (You et al. 2017, section 5 and Table 3a).

Biases have a local rate of their own too: Table 2 of the paper lists the norms of weights and biases of every
layer.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/alexnet_lars.py data.root=/data/imagenet
Published  top-1 error 41.3 % (one run)
Differs    in what alexnet lists
Measured   not yet
"""

from alexnet import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 2.
recipe = baseline.vary(
    optimizer=dict(name="lars", trust_coefficient=0.001, eps=0.0, no_trust_ratio=[]),
    schedule=dict(base_lr=2.0, warmup="2ep"),
    expect=Expectation("top1_error", 41.3, 0.5, "You et al. 2017, Table 3a"),
)

if __name__ == "__main__":
    main(recipe)
