"""Mask R-CNN on 1 GPU with 2 images each, 1,280,000 steps, learning rate 0.0025 by the linear rule (Goyal et
al. 2017, Table 3b).

Run        torchrun --nproc_per_node 1 recipes/coco/mask_rcnn_goyal_2.py data.root=/data/coco
           model.weights=resnet50.pt
Published  mask AP 33.6 % (minival)
Differs    in what mask_rcnn_goyal lists
Measured   not yet
"""

from mask_rcnn_goyal import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 0.0025.
recipe = baseline.vary(
    batch_size=2,
    duration="1280000it",
    expect=Expectation("mask_ap", 33.6, 0.3, "Goyal et al. 2017, Table 3b"),
)

if __name__ == "__main__":
    main(recipe)
