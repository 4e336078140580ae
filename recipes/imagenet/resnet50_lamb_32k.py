"""ResNet-50 on ImageNet at 32,768 images a step with LAMB (You et al. 2019; settings of the first author's
run script).

The script gives rate, warm-up, weight decay (inside the ratio, beside Adam's direction, hence so large)
and label smoothing; optimization.py the rest: no bias correction, global norm clipped to 1, batch norm alone
held back from decay and ratio, a straight line from the peak to 0. 256 cores have 128 images each in a batch
norm.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_lamb_32k.py data.root=/data/imagenet
Published  top-1 error 23.66 % (log of the authors' run, step 3,519)
Differs    read in optimization.py, resnet_main.py, resnet_model.py, resnet_preprocessing.py, run.sh and
           log.out of fastalgo/imagenet_resnet50_lamb: the gradient is clipped after averaging (there each
           core's before); fp32 (there bfloat16); convolutions start as in He et al. 2015, by fan-out (there
           by fan-in, 0.35 to 1.4 times as wide); an antialiased bicubic filter (there without); crops of
           torchvision's (there TensorFlow's, whose aspect ratios are uniform, not log-uniform); running
           statistics are the average over all ghost batches (there those of a core)
Measured   not yet
"""

from resnet50 import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 0.04.
recipe = baseline.vary(
    batch_size=32768,
    bn_batch_size=128,
    data=dict(interpolation="bicubic"),
    optimizer=dict(
        name="lamb",
        nesterov=False,
        weight_decay=1.5,
        no_decay=["norm"],
        no_trust_ratio=["norm"],
        bias_correction=False,
        clip_norm=1.0,
    ),
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
