"""ResNet-50 on ImageNet at 65,536 images a step with LARS (You et al. 2017) to MLPerf's quality: its
reference convergence point.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_mlperf_65536.py
           data.root=/data/imagenet
Published  84.5 ± 1.0 epochs to top-1 error 24.1 % (10 runs, 83 to 86; MLPerf reference convergence point)
Differs    in what resnet50_mlperf_1632 lists; decay_steps is read as the steps after the warm-up
Measured   not yet
"""

from resnet50_mlperf_1632 import recipe as smallest

from lbtrain import Expectation, main

# Peak learning rate 24.7.
recipe = smallest.vary(
    batch_size=65536,
    bn_batch_size=128,
    duration="1739it",
    optimizer=dict(momentum=0.951807, weight_decay=0.0001),
    schedule=dict(base_lr=24.699, base_batch_size=65536, warmup="31ep"),
    expect=Expectation(
        "epochs", 84.5, 1.5, "MLPerf, rcps_resnet.json 4.0.0, resnet_ref_65536", target="top1_error<=24.1"
    ),
)

if __name__ == "__main__":
    main(recipe)
