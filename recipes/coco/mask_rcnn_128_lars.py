"""Mask R-CNN on COCO at 128 images a step with LARS, whose rate follows the square root of the batch (You et
al. 2017).

The rate is a first guess that no run has confirmed.

Run        deepspeed --hostfile hostfiles/8x8 recipes/coco/mask_rcnn_128_lars.py data.root=/data/coco
           model.weights=resnet50.pt
Published  nothing
Measured   not yet
"""

from mask_rcnn_128 import recipe as baseline

from lbtrain import main

# Peak learning rate 2.828.
recipe = baseline.vary(
    optimizer=dict(name="lars", no_decay=["norm", "bias"]),
    schedule=dict(base_lr=1.0, base_batch_size=16, rule="sqrt", warmup_start_lr=0.0),
)

if __name__ == "__main__":
    main(recipe)
