"""ResNet-50 on ImageNet at 58,880 images a step with LARS (You et al. 2017) to MLPerf's quality: its
reference convergence point.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_mlperf_58880.py
           data.root=/data/imagenet
Published  79.9 ± 0.9 epochs to top-1 error 24.1 % (10 runs, 78 to 81; MLPerf reference convergence point)
Differs    in what resnet50_mlperf_1632 lists; decay_steps is read as the whole run, warm-up included, since
           every run of the reference ends by then
Measured   not yet
"""

from resnet50_mlperf_1632 import recipe as smallest

from lbtrain import Expectation, main

# Peak learning rate 23.25.
recipe = smallest.vary(
    batch_size=58880,
    bn_batch_size=230,
    duration="1785it",
    optimizer=dict(momentum=0.951807, weight_decay=0.0001),
    schedule=dict(base_lr=23.246, base_batch_size=58880, warmup="29ep"),
    expect=Expectation(
        "epochs", 79.9, 2.0, "MLPerf, rcps_resnet.json 4.0.0, resnet_ref_58880", target="top1_error<=24.1"
    ),
)

if __name__ == "__main__":
    main(recipe)
