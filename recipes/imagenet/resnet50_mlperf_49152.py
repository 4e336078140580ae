"""ResNet-50 on ImageNet at 49,152 images a step with LARS (You et al. 2017) to MLPerf's quality: its
reference convergence point.

Run        deepspeed --hostfile hostfiles/8x8 recipes/imagenet/resnet50_mlperf_49152.py
           data.root=/data/imagenet
Published  68.0 ± 0.7 epochs to top-1 error 24.1 % (10 runs, 67 to 69; MLPerf reference convergence point)
Differs    in what resnet50_mlperf_1632 lists; decay_steps is read as the whole run, warm-up included, since
           every run of the reference ends by then
Measured   not yet
"""

from resnet50_mlperf_1632 import recipe as smallest

from lbtrain import Expectation, main

# Peak learning rate 19.41.
recipe = smallest.vary(
    batch_size=49152,
    bn_batch_size=256,
    duration="1846it",
    optimizer=dict(momentum=0.951807, weight_decay=0.0001),
    schedule=dict(base_lr=19.405, base_batch_size=49152, warmup="24ep"),
    expect=Expectation(
        "epochs", 68.0, 1.0, "MLPerf, rcps_resnet.json 4.0.0, resnet_ref_49152", target="top1_error<=24.1"
    ),
)

if __name__ == "__main__":
    main(recipe)
