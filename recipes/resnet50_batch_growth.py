"""ResNet-50 on ImageNet from 8,192 to 81,920 images a step: at epoch 30 the batch grows tenfold and the rate stays (Smith et al. 2018).

From there on the batch is a sixteenth of the data set, near the paper's limit of a tenth, and the rate falls as in the parent.

Run        deepspeed --hostfile hostfiles/32x8 recipes/resnet50_batch_growth.py data.root=/data/imagenet
Published  top-1 accuracy 76.1 % in under 30 minutes (abstract; a growth from 8,192 to 16,384 images; other settings not stated)
Measured   not yet
"""

from resnet50_8k import recipe as constant

from lbtrain import main

recipe = constant.vary(schedule=dict(batch_growth=["30ep:10"], milestones=["60ep", "80ep"]))

if __name__ == "__main__":
    main(recipe)
