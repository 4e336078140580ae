"""Mask R-CNN on COCO at 64 images a step: the linear rule, and 4 times as many images of warm-up.

Run        deepspeed --hostfile hostfiles/4x8 recipes/coco/mask_rcnn_64.py data.root=/data/coco
           model.weights=resnet50.pt
Published  nothing at this batch; the baseline at 16 (detectron2's model zoo): mask AP 35.2
Measured   not yet
"""

from mask_rcnn import recipe as baseline

from lbtrain import main

# Peak learning rate 0.08.
recipe = baseline.vary(
    batch_size=64,
    duration="22500it",
    schedule=dict(milestones=["15000it", "20000it"]),
)

if __name__ == "__main__":
    main(recipe)
