"""ResNet-50 on ImageNet at 67,840 images a step with LARS (You et al. 2017) to MLPerf's quality: its
reference convergence point.

Run        deepspeed --hostfile hostfiles/4x8 recipes/imagenet/resnet50_mlperf_67840.py
           data.root=/data/imagenet
Published  85.9 ± 0.7 epochs to top-1 error 24.1 % (28 runs, 85 to 87; MLPerf reference convergence point)
Differs    in what resnet50_mlperf_1632 lists; decay_steps is read as the steps after the warm-up
Measured   not yet
"""

from resnet50_mlperf_1632 import recipe as smallest

from lbtrain import Expectation, main

# Peak learning rate 24.7.
recipe = smallest.vary(
    batch_size=67840,
    bn_batch_size=424,
    duration="1718it",
    optimizer=dict(momentum=0.951807, weight_decay=0.0001),
    schedule=dict(base_lr=24.699, base_batch_size=67840, warmup="31ep"),
    expect=Expectation(
        "epochs", 85.86, 1.2, "MLPerf, rcps_resnet.json 4.0.0, resnet_ref_67840", target="top1_error<=24.1"
    ),
)

if __name__ == "__main__":
    main(recipe)
