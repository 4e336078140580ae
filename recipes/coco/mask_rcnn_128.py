"""Mask R-CNN on COCO at 128 images a step: the linear rule, and 8 times as many images of warm-up.

Run        deepspeed --hostfile hostfiles/8x8 recipes/coco/mask_rcnn_128.py data.root=/data/coco
           model.weights=resnet50.pt
Published  nothing at this batch; the baseline at 16 (detectron2's model zoo): mask AP 35.2
Measured   not yet
"""

from mask_rcnn import recipe as baseline

from lbtrain import main

# Peak learning rate 0.16.
recipe = baseline.vary(
    batch_size=128,
    duration="11250it",
    schedule=dict(milestones=["7500it", "10000it"]),
)

if __name__ == "__main__":
    main(recipe)
