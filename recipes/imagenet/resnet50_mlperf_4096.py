"""ResNet-50 on ImageNet at 4,096 images a step with LARS (You et al. 2017) to MLPerf's quality: its reference
convergence point.

Run        deepspeed --hostfile hostfiles/8x8 recipes/imagenet/resnet50_mlperf_4096.py
           data.root=/data/imagenet
Published  40.0 ± 1.1 epochs to top-1 error 24.1 % (10 runs, 39 to 42; MLPerf reference convergence point)
Differs    in what resnet50_mlperf_1632 lists; decay_steps is read as the whole run, warm-up included, since
           every run of the reference ends by then
Measured   not yet
"""

from resnet50_mlperf_1632 import recipe as smallest

from lbtrain import Expectation, main

# Peak learning rate 10.
recipe = smallest.vary(
    batch_size=4096,
    bn_batch_size=64,
    duration="13137it",
    optimizer=dict(weight_decay=0.0002),
    schedule=dict(base_lr=10.0, base_batch_size=4096, warmup="5ep"),
    expect=Expectation(
        "epochs", 40.0, 2.0, "MLPerf, rcps_resnet.json 4.0.0, resnet_ref_4096", target="top1_error<=24.1"
    ),
)

if __name__ == "__main__":
    main(recipe)
