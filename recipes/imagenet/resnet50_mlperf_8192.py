"""ResNet-50 on ImageNet at 8,192 images a step with LARS (You et al. 2017) to MLPerf's quality: its reference
convergence point.

Run        deepspeed --hostfile hostfiles/16x8 recipes/imagenet/resnet50_mlperf_8192.py
           data.root=/data/imagenet
Published  42.0 ± 1.1 epochs to top-1 error 24.1 % (10 runs, 41 to 44; MLPerf reference convergence point)
Differs    in what resnet50_mlperf_1632 lists; decay_steps is read as the steps after the warm-up
Measured   not yet
"""

from resnet50_mlperf_1632 import recipe as smallest

from lbtrain import Expectation, main

# Peak learning rate 17.
recipe = smallest.vary(
    batch_size=8192,
    bn_batch_size=64,
    duration="6877it",
    optimizer=dict(weight_decay=0.0002),
    schedule=dict(base_lr=17.0, base_batch_size=8192, warmup="5ep"),
    expect=Expectation(
        "epochs", 42.0, 2.0, "MLPerf, rcps_resnet.json 4.0.0, resnet_ref_8192", target="top1_error<=24.1"
    ),
)

if __name__ == "__main__":
    main(recipe)
