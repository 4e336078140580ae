"""Faster R-CNN with ResNet-50 and a feature pyramid on COCO at 16 images a step, in torchvision's 26 epochs
(Ren et al. 2015).

Read in references/detection of pytorch/vision: train.py, and its README's command for
fasterrcnn_resnet50_fpn.

Run        deepspeed --hostfile hostfiles/1x8 recipes/coco/faster_rcnn.py data.root=/data/coco
           model.weights=tv_in1k
Published  box AP 37.0 % (torchvision's model zoo, from its own ImageNet weights)
Differs    the images of a step are all upright or none is (there those of a GPU are of like aspect ratio);
           the weights to start from are the user's choice. Hence no expectation
Measured   not yet
"""

from mask_rcnn import recipe as mask_rcnn

from lbtrain import main

# Peak learning rate 0.02.
recipe = mask_rcnn.vary(
    duration="26ep",
    model=dict(detector="faster_rcnn"),
    data=dict(short_edges=["800"]),
    schedule=dict(milestones=["16ep", "22ep"]),
)

if __name__ == "__main__":
    main(recipe)
