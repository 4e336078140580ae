"""Mask R-CNN with ResNet-50 and a feature pyramid on COCO at 16 images a step, the 1x schedule of
detectron2's mask_rcnn_R_50_FPN_1x.

model.weights is a checkpoint of recipes/imagenet/resnet50.py (or one of its large-batch variants, as in Goyal
et al. 2017, Table 3a), or timm's.

Run        deepspeed --hostfile hostfiles/1x8 recipes/coco/mask_rcnn.py data.root=/data/coco
           model.weights=resnet50.pt
Published  mask AP 35.2 % (detectron2's model zoo, from its own ImageNet weights)
Differs    torchvision's Mask R-CNN stands for detectron2's; the weights to start from are the user's
           choice. Hence no expectation
Measured   not yet
"""

from lbtrain import Recipe, main

# Peak learning rate 0.02.
recipe = Recipe().vary(
    batch_size=16,
    loss_batch_size=2,
    max_micro_batch_size=2,
    duration="90000it",
    model=dict(
        library="torchvision",
        name="resnet50",
        batch_norm="frozen",
        args=dict(frozen=["conv1", "bn1", "layer1"]),
    ),
    data=dict(
        name="coco",
        augmentation="flip",
        short_edges=["640", "672", "704", "736", "768", "800"],
        max_size=1333,
        group_by="aspect",
        workers=4,
    ),
    optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4, no_decay=["norm"]),
    schedule=dict(
        base_lr=0.02,
        base_batch_size=16,
        rule="linear",
        warmup="1000it",
        warmup_start_lr=2e-5,
        decay="step",
        milestones=["60000it", "80000it"],
    ),
    log_every="20it",
    evaluate_every="0.1dur",
    checkpoint=dict(every="0.05dur"),
)

if __name__ == "__main__":
    main(recipe)
