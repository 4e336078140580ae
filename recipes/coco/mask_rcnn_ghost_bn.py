"""Mask R-CNN on COCO with batch norm over 2 images, one GPU's, in place of frozen statistics; all but the
stem is trained.

Run        deepspeed --hostfile hostfiles/1x8 recipes/coco/mask_rcnn_ghost_bn.py data.root=/data/coco
           model.weights=resnet50.pt
Published  nothing in these settings
Measured   not yet
"""

from mask_rcnn import recipe as baseline

from lbtrain import main

# Peak learning rate 0.02.
recipe = baseline.vary(bn_batch_size=2, model=dict(batch_norm="ghost", args=dict(frozen=["conv1"])))

if __name__ == "__main__":
    main(recipe)
