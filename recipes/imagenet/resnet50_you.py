"""ResNet-50 on ImageNet at 256 images a step with LARS, as the paper trained it (You et al. 2017, section 5
and Table 4).

Table 4 has two augmentations. This is the minimal one, whose model is the first author's train_val.prototxt;
the extended one, of which the paper says nothing more, gives an error of 24.2 %. Every parameter has its
local rate, as the biases of Table 2 have.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_you.py data.root=/data/imagenet
Published  top-1 error 26.2 % (one run, minimal augmentation)
Differs    read in the first author's models/resnet50/train_val.prototxt and solver.prototxt
           (github.com/borisgin/nvcaffe, branch caffe-0.16_lars): pixels are divided by 255 (there 256); the
           mean is one colour (there an image of means); weight decay is the paper's 5e-4 (the solver of LARS
           there has 1e-4, with another rate); the batch of a batch norm is our reading of eight GPUs
Measured   not yet
"""

from lbtrain import Expectation, Recipe, main

# Peak learning rate 4.
recipe = Recipe().vary(
    batch_size=256,
    bn_batch_size=32,
    max_micro_batch_size=128,
    duration="100ep",
    model=dict(name="resnet50_v1"),
    data=dict(
        name="imagenet",
        augmentation="alexnet",  # a random 224 x 224 of 256 x 256 pixels
        mean=["0.485", "0.456", "0.406"],
        std=["1", "1", "1"],
        crop_share=0.875,
        interpolation="bilinear",
        workers=8,
    ),
    optimizer=dict(
        name="lars",
        momentum=0.9,
        weight_decay=5e-4,
        no_decay=[],
        no_trust_ratio=[],
        trust_coefficient=0.001,
        eps=0.0,
    ),
    schedule=dict(base_lr=4.0, base_batch_size=256, rule="none", warmup="0ep", decay="poly", power=2.0),
    log_every="50it",
    expect=Expectation("top1_error", 26.2, 0.5, "You et al. 2017, Table 4"),
)

if __name__ == "__main__":
    main(recipe)
