"""ResNet-50 on ImageNet at 32,768 images a step with LARS (You et al. 2017) to MLPerf's quality: its
reference convergence point.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_mlperf_32768.py
           data.root=/data/imagenet
Published  56.0 ± 0.5 epochs to top-1 error 24.1 % (10 runs, 55 to 57; MLPerf reference convergence point)
Differs    in what resnet50_mlperf_1632 lists; decay_steps is read as the whole run, warm-up included, since
           every run of the reference ends by then
Measured   not yet
"""

from resnet50_mlperf_1632 import recipe as smallest

from lbtrain import Expectation, main

# Peak learning rate 21.2.
recipe = smallest.vary(
    batch_size=32768,
    bn_batch_size=128,
    duration="2267it",
    optimizer=dict(momentum=0.94, weight_decay=2.5e-05),
    schedule=dict(base_lr=21.2, base_batch_size=32768, warmup="16ep"),
    expect=Expectation(
        "epochs", 56.0, 1.0, "MLPerf, rcps_resnet.json 4.0.0, resnet_ref_32768", target="top1_error<=24.1"
    ),
)

if __name__ == "__main__":
    main(recipe)
