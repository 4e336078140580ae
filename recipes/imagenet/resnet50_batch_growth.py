"""ResNet-50 on ImageNet from 8,192 to 16,384 images a step: where the rate would fall first, the batch
doubles (Smith et al. 2018).

What the batch does not take of the parent's factor of 10, the rate does. That epoch 30 is the place is our
reading; the paper's limit is a tenth of the data set: schedule.batch_growth=[30ep:10]
schedule.milestones=[60ep,80ep] has the whole factor.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_batch_growth.py
           data.root=/data/imagenet
Published  top-1 error 23.9 % in under 30 minutes (abstract; other settings not stated)
Differs    the abstract states the error and the time alone: all else is resnet50_8k's. Hence no expectation
Measured   not yet
"""

from resnet50_8k import recipe as constant

from lbtrain import main

# Peak learning rate 3.2.
recipe = constant.vary(schedule=dict(batch_growth=["30ep:2"], milestones=["30ep:0.2", "60ep", "80ep"]))

if __name__ == "__main__":
    main(recipe)
