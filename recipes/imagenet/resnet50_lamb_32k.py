"""ResNet-50 on ImageNet at 32,768 images a step with LAMB (You et al. 2019; settings of the first author's
run script).

The script gives rate, warm-up, weight decay (beside the adapted step, hence so large) and label smoothing;
the shape of the decay and the batch-norm batch ("distributed", 256 images on each of 128 chips) are our
reading.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_lamb_32k.py data.root=/data/imagenet
Published  top-1 error 23.66 % (log of the authors' run, step 3,519)
Measured   not yet
"""

from resnet50 import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 0.04.
recipe = baseline.vary(
    batch_size=32768,
    bn_batch_size=256,
    optimizer=dict(name="lamb", nesterov=False, weight_decay=1.5, no_decay=["norm", "bias"]),
    schedule=dict(
        base_lr=0.04,
        base_batch_size=32768,
        rule="sqrt",
        warmup="20ep",
        warmup_start_lr=0.0,
        decay="poly",
        power=1.0,
    ),
    loss=dict(label_smoothing=0.1),
    expect=Expectation("top1_error", 23.66, 0.5, "You et al. 2019, log of the authors' ResNet-50 run"),
)

if __name__ == "__main__":
    main(recipe)
