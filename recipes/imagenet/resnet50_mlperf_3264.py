"""ResNet-50 on ImageNet at 3,264 images a step with LARS (You et al. 2017) to MLPerf's quality: its reference
convergence point.

Run        deepspeed --hostfile hostfiles/2x8 recipes/imagenet/resnet50_mlperf_3264.py
           data.root=/data/imagenet
Published  35.2 ± 0.8 epochs to top-1 error 24.1 % (15 runs, 34 to 37; MLPerf reference convergence point)
Differs    in what resnet50_mlperf_1632 lists; decay_steps is read as the steps after the warm-up
Measured   not yet
"""

from resnet50_mlperf_1632 import recipe as smallest

from lbtrain import Expectation, main

# Peak learning rate 10.5.
recipe = smallest.vary(
    batch_size=3264,
    duration="15308it",
    schedule=dict(base_lr=10.5, base_batch_size=3264),
    expect=Expectation(
        "epochs", 35.2, 1.8, "MLPerf, rcps_resnet.json 4.0.0, resnet_ref_3264", target="top1_error<=24.1"
    ),
)

if __name__ == "__main__":
    main(recipe)
