"""ResNet-50 on ImageNet at 1,024 images a step in ghost batches of 32 (Masters & Luschi 2018, section 3.6 and
Figure 14).

bn_batch_size=16 to 64 are the best of the figure, whatever the SGD batch; bn_batch_size=128 is its last
point.

Run        deepspeed --hostfile hostfiles/4x8 recipes/imagenet/resnet50_ghost_bn.py data.root=/data/imagenet
Published  best with ghost batches of 16 to 64 images for every SGD batch (a figure without numbers)
Differs    in what resnet50_small_batch lists
Measured   not yet
"""

from resnet50_small_batch import recipe as small_batch

from lbtrain import BestBatch, main

# Peak learning rate 1.
recipe = small_batch.vary(
    batch_size=1024,
    bn_batch_size=32,
    finding=BestBatch(16, 64, "Masters & Luschi 2018, Figure 14", key="bn_batch_size"),
)

if __name__ == "__main__":
    main(recipe)
