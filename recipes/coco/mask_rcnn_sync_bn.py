"""Mask R-CNN on COCO with batch norm over the whole step of 16 images in place of frozen statistics; all but
the stem is trained.

Statistics over one GPU's 2 images are mask_rcnn_ghost_bn.

Run        deepspeed --hostfile hostfiles/1x8 recipes/coco/mask_rcnn_sync_bn.py data.root=/data/coco
           model.weights=resnet50.pt
Published  nothing in these settings
Measured   not yet
"""

from mask_rcnn import recipe as baseline

from lbtrain import main

# Peak learning rate 0.02.
recipe = baseline.vary(model=dict(batch_norm="sync", args=dict(frozen=["conv1"])))

if __name__ == "__main__":
    main(recipe)
