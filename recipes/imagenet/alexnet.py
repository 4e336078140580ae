"""AlexNet on ImageNet at 512 images a step: the baseline of the LARS paper (You et al. 2017, Table 1a).

batch_size=256 schedule.base_lr=0.01 is the pair of Caffe's own model.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/alexnet.py data.root=/data/imagenet
Published  top-1 error 41.2 % (Table 1a; the introduction of the paper says 42.4)
Differs    read in the first author's models/bvlc_alexnet/train_val.prototxt (github.com/borisgin/nvcaffe,
           branch caffe-0.16_lars; biases decay and have the rate of weights, unlike in Caffe's own): the mean
           is one colour (there an image of means); the tolerance of 0.5 is ours, the paper has one run
Measured   not yet
"""

from lbtrain import Expectation, Recipe, main

# Peak learning rate 0.02.
recipe = Recipe().vary(
    batch_size=512,
    max_micro_batch_size=256,
    duration="100ep",
    model=dict(name="alexnet"),
    data=dict(
        name="imagenet",
        augmentation="alexnet",
        image_size=227,
        mean=["0.485", "0.456", "0.406"],
        crop_share=0.8867,  # 227 of 256 pixels
        interpolation="bilinear",
        workers=8,
    ),
    optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4, no_decay=[]),
    schedule=dict(
        base_lr=0.02,
        base_batch_size=512,
        rule="none",
        warmup="2.5ep",
        warmup_start_lr=0.0,
        decay="poly",
        decay_from="start",
        power=2.0,
    ),
    log_every="50it",
    expect=Expectation("top1_error", 41.2, 0.5, "You et al. 2017, Table 1a"),
)

if __name__ == "__main__":
    main(recipe)
