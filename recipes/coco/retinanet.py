"""RetinaNet with ResNet-50 on COCO at 16 images a step, in torchvision's 26 epochs (Lin et al. 2017).

Read in references/detection of pytorch/vision: train.py, and its README's command for
retinanet_resnet50_fpn.

Run        deepspeed --hostfile hostfiles/1x8 recipes/coco/retinanet.py data.root=/data/coco
           model.weights=tv_in1k
Published  box AP 36.4 % (torchvision's model zoo, from its own ImageNet weights)
Differs    in what faster_rcnn lists
Measured   not yet
"""

from faster_rcnn import recipe as faster_rcnn

from lbtrain import main

# Peak learning rate 0.01.
recipe = faster_rcnn.vary(
    loss_batch_size=1, model=dict(detector="retinanet"), schedule=dict(base_lr=0.01, warmup_start_lr=1e-5)
)

if __name__ == "__main__":
    main(recipe)
