"""AlexNet-BN on ImageNet at 512 images a step: batch norm for local response norm, no warm-up (You et al.
2017, Table 1b).

The text trains 128 epochs, the table's caption says 100. The authors' machine had eight GPUs (a DGX-1): of
512 images each has 64 in a batch norm, of 8,192 it has 1,024.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/alexnet_bn.py data.root=/data/imagenet
Published  top-1 error 39.8 % (one run)
Differs    read in the first author's models/alexnet_bn/train_val2.prototxt and solver.prototxt
           (github.com/borisgin/nvcaffe): pixels are divided by 255 (there 256); the mean is one colour (there
           an image of means); the batch of a batch norm is our reading of eight GPUs
Measured   not yet
"""

from alexnet import recipe as alexnet

from lbtrain import Expectation, main

# Peak learning rate 0.02.
recipe = alexnet.vary(
    bn_batch_size=64,
    duration="128ep",
    model=dict(name="alexnet_bn"),
    data=dict(std=["1", "1", "1"]),
    schedule=dict(warmup="0ep", warmup_start_lr=None, decay_from="warmup_end"),
    expect=Expectation("top1_error", 39.8, 0.5, "You et al. 2017, Table 1b"),
)

if __name__ == "__main__":
    main(recipe)
