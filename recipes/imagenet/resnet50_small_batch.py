"""ResNet-50 on ImageNet at 32 images a step, the rate stated per example (Masters & Luschi 2018, section 3.5
and Figure 12).

In the figure batches of 16 to 64 are best. batch_size=16 bn_batch_size=16 and batch_size=64 bn_batch_size=64
are its other points; the rate per example stays.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_small_batch.py
           data.root=/data/imagenet
Published  best between 16 and 64 images; best rate 2^-10 per example at 256 to 1,024 images (section 3.6)
Differs    what the paper does not state is Goyal et al.'s, as in resnet50: zero gamma, deviation of the
           head, no decay of batch norm
Measured   not yet
"""

from resnet50 import recipe as baseline

from lbtrain import BestBatch, main

# Peak learning rate 0.03125.
recipe = baseline.vary(
    batch_size=32,
    optimizer=dict(momentum=0.0, nesterov=False),
    # The paper's rate is per example, for a loss summed over the batch.
    schedule=dict(base_lr=2**-10, base_batch_size=1, warmup="0ep"),
    finding=BestBatch(16, 64, "Masters & Luschi 2018, Figure 12"),
)

if __name__ == "__main__":
    main(recipe)
