"""ResNet-50 on ImageNet at 256 images a step: the baseline (Goyal et al. 2017, section 5.1 and Table 1).

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50.py data.root=/data/imagenet
Published  top-1 error 23.60 ± 0.12 % (5 runs; error of a run: median of the last 5 epochs)
Differs    crops are resampled by an antialiased bilinear filter (Caffe2's image_input_op.h, with which the
           paper trained, averages areas; fb.resnet.torch, to which it refers, is bicubic); a ghost batch
           stands for the images of a GPU; the tolerance of 0.3 is ours, the paper prints a deviation of 0.12
Measured   not yet
"""

from lbtrain import Expectation, Recipe, main

# Peak learning rate 0.1.
recipe = Recipe().vary(
    batch_size=256,
    bn_batch_size=32,
    max_micro_batch_size=128,
    duration="90ep",
    # timm's ResNet-50 has the stride in the 3x3 convolution and starts the last gamma of each block at 0, as
    # the paper does.
    model=dict(name="resnet50", head_std=0.01),
    data=dict(
        name="imagenet",
        augmentation="imagenet",
        # ImageNet's mean and deviation and 224 of 256 pixels are fb.resnet.torch's, to which the paper
        # refers; timm's pretrained ResNet-50 was made with others.
        mean=["0.485", "0.456", "0.406"],
        std=["0.229", "0.224", "0.225"],
        crop_share=0.875,
        interpolation="bilinear",
        workers=8,
    ),
    optimizer=dict(name="sgd", momentum=0.9, nesterov=True, weight_decay=1e-4, no_decay=["norm"]),
    schedule=dict(
        base_lr=0.1,
        base_batch_size=256,
        rule="linear",
        warmup="5ep",
        decay="step",
        milestones=["30ep", "60ep", "80ep"],
        factor=0.1,
    ),
    log_every="50it",
    expect=Expectation("top1_error", 23.60, 0.3, "Goyal et al. 2017, Table 1", evaluations=5),
)

if __name__ == "__main__":
    main(recipe)
