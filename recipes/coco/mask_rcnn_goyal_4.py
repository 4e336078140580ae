"""Mask R-CNN on 2 GPUs with 2 images each, 640,000 steps, learning rate 0.005 by the linear rule (Goyal et
al. 2017, Table 3b).

Run        torchrun --nproc_per_node 2 recipes/coco/mask_rcnn_goyal_4.py data.root=/data/coco
           model.weights=resnet50.pt
Published  mask AP 33.7 % (minival)
Differs    in what mask_rcnn_goyal lists
Measured   not yet
"""

from mask_rcnn_goyal import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 0.005.
recipe = baseline.vary(
    batch_size=4, duration="640000it", expect=Expectation("mask_ap", 33.7, 0.3, "Goyal et al. 2017, Table 3b")
)

if __name__ == "__main__":
    main(recipe)
