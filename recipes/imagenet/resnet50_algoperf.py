"""ResNet-50 on ImageNet at 1,024 images a step with heavy-ball momentum: the run that sets AlgoPerf's target
(Dahl et al. 2023).

mlcommons/algorithmic-efficiency has the setting (tuning_search_space.json of the target) and the quality, an
accuracy of 77.431 %, at which the run ends.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/resnet50_algoperf.py data.root=/data/imagenet
Published  nothing but the bound: 117.5 epochs to top-1 error 22.569 %
Differs    which parameters are decayed and over how many images batch norm goes was not read: not norms and
           biases, and 128 images. Hence no expectation
Measured   not yet
"""

from resnet50 import recipe as baseline

from lbtrain import main

# Peak learning rate 4.132.
recipe = baseline.vary(
    batch_size=1024,
    bn_batch_size=128,
    duration="146999it",
    stop_at=["top1_accuracy>=77.431"],
    optimizer=dict(
        momentum=0.9274758113254791,
        nesterov=False,
        weight_decay=5.6687777311501786e-06,
        no_decay=["norm", "bias"],
    ),
    # A straight line to a thousandth of the peak over 90 % of the steps after the warm-up.
    schedule=dict(
        base_lr=4.131896390902391,
        base_batch_size=1024,
        rule="none",
        warmup="6999it",
        warmup_start_lr=0.0,
        decay="poly",
        power=1.0,
        decay_until="133108it",
        end_lr=0.004131896390902391,
    ),
    loss=dict(label_smoothing=0.2),
)

if __name__ == "__main__":
    main(recipe)
