"""Mask R-CNN on 4 GPUs with 2 images each, 320,000 steps, learning rate 0.01 by the linear rule (Goyal et al.
2017, Table 3b).

Run        torchrun --nproc_per_node 4 recipes/coco/mask_rcnn_goyal_8.py data.root=/data/coco
           model.weights=resnet50.pt
Published  mask AP 33.5 % (minival)
Differs    in what mask_rcnn_goyal lists
Measured   not yet
"""

from mask_rcnn_goyal import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 0.01.
recipe = baseline.vary(
    batch_size=8, duration="320000it", expect=Expectation("mask_ap", 33.5, 0.3, "Goyal et al. 2017, Table 3b")
)

if __name__ == "__main__":
    main(recipe)
