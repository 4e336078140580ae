"""ResNet-50 on ImageNet at 13,056 images a step with LARS (You et al. 2017) to MLPerf's quality: its
reference convergence point.

Run        deepspeed --hostfile hostfiles/8x8 recipes/imagenet/resnet50_mlperf_13056.py
           data.root=/data/imagenet
Published  45.4 ± 0.7 epochs to top-1 error 24.1 % (10 runs, 44 to 46; MLPerf reference convergence point)
Differs    in what resnet50_mlperf_1632 lists; decay_steps is read as the whole run, warm-up included, since
           every run of the reference ends by then
Measured   not yet
"""

from resnet50_mlperf_1632 import recipe as smallest

from lbtrain import Expectation, main

# Peak learning rate 12.8.
recipe = smallest.vary(
    batch_size=13056,
    duration="4710it",
    optimizer=dict(weight_decay=2.5e-05),
    schedule=dict(base_lr=12.8, base_batch_size=13056, warmup="9ep"),
    expect=Expectation(
        "epochs", 45.4, 1.4, "MLPerf, rcps_resnet.json 4.0.0, resnet_ref_13056", target="top1_error<=24.1"
    ),
)

if __name__ == "__main__":
    main(recipe)
