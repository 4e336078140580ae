"""ResNet-50 on ImageNet at 1,632 images a step with LARS (You et al. 2017) to MLPerf's quality: its reference
convergence point.

mlcommons/logging has the point (rcps_resnet.json), mlcommons/training its code
(retired_benchmarks/resnet-tf2). MLPerf's quality is an accuracy of 75.9 %; the run ends there.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_mlperf_1632.py
           data.root=/data/imagenet
Published  35.0 ± 1.1 epochs to top-1 error 24.1 % (17 runs, 33 to 37; MLPerf reference convergence point)
Differs    decay_steps is read as the steps after the warm-up; evaluated after each epoch (there every 4);
           strided convolutions and pooling are padded on both sides (there 'same', on one); the deviation of
           initial convolutions goes by their outputs (there by their inputs); the last batch of an epoch
           reaches into the next (there dropped); a layer without gradient keeps its weights; the bounding
           boxes of the data set are not looked at; no epsilon is Keras's 1e-7 there and here
Measured   not yet
"""

from resnet50 import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 7.4.
recipe = baseline.vary(
    batch_size=1632,
    bn_batch_size=204,
    max_micro_batch_size=424,
    duration="29046it",
    stop_at=["top1_error<=24.1"],
    model=dict(args={"zero_init_last": False}),
    data=dict(
        # The mean is subtracted, and nothing divided.
        mean=["0.485019607843", "0.457960784314", "0.407607843137"],
        std=["0.00392156862745", "0.00392156862745", "0.00392156862745"],
        min_crop_area=0.05,
    ),
    optimizer=dict(name="lars", nesterov=False, weight_decay=5e-05, no_decay=["norm", "bias"], eps=1e-7),
    schedule=dict(
        base_lr=7.4,
        base_batch_size=1632,
        rule="none",
        warmup="2ep",
        warmup_start_lr=0.0,
        decay="poly",
        power=2.0,
        end_lr=1e-4,
    ),
    loss=dict(label_smoothing=0.1),
    expect=Expectation(
        "epochs", 35.0, 2.0, "MLPerf, rcps_resnet.json 4.0.0, resnet_ref_1632", target="top1_error<=24.1"
    ),
)

if __name__ == "__main__":
    main(recipe)
