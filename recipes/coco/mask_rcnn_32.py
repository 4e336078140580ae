"""Mask R-CNN on COCO at 32 images a step: the linear rule, and 2 times as many images of warm-up.

Run        deepspeed --hostfile hostfiles/2x8 recipes/coco/mask_rcnn_32.py data.root=/data/coco
           model.weights=resnet50.pt
Published  nothing at this batch; the baseline at 16 (detectron2's model zoo): mask AP 35.2
Measured   not yet
"""

from mask_rcnn import recipe as baseline

from lbtrain import main

# Peak learning rate 0.04.
recipe = baseline.vary(
    batch_size=32,
    duration="45000it",
    schedule=dict(milestones=["30000it", "40000it"]),
)

if __name__ == "__main__":
    main(recipe)
