"""ResNet-50 on ImageNet at 8,192 images a step with LARS (You et al. 2017) in the setting that was reproduced
best: that of NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch.

The rate is 4 at 512 images and grows with the square root of the batch, the warm-up linearly: not SGD's rule.
The paper's own setting (Table 4: rate 30, warm-up 5 epochs, weight decay 5e-4, 100 epochs) is published with
an error of 24.8 %.

Run        deepspeed --hostfile hostfiles/32x8 recipes/imagenet/resnet50_lars_8k.py data.root=/data/imagenet
Published  top-1 error 22.86 % (independent re-implementation NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch; one
           run)
Differs    read in its README, lars.py, utils.py and pytorch_imagenet_resnet.py: a layer without gradient
           keeps its weights (there ratio 1); running statistics are the average over all ghost batches
           (there each worker has its own, and the first one's are saved)
Measured   not yet
"""

from resnet50 import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 16.
recipe = baseline.vary(
    batch_size=8192,
    bn_batch_size=128,
    # torchvision's ResNet-50 as it is: the last gamma of a block starts at 1, the classifier as torch has it.
    model=dict(args={"zero_init_last": False}, head_std=0.0),
    optimizer=dict(
        name="lars",
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,
        no_decay=["norm", "bias"],
        trust_coefficient=0.001,
        eps=1e-5,
        momentum_scaling="none",
        trust_clip=50.0,
        clip_value=10.0,
    ),
    schedule=dict(
        base_lr=4.0,
        base_batch_size=512,
        rule="sqrt",
        warmup="0.15625ep",
        warmup_rule="linear",
        warmup_start_lr=0.0,
        decay="poly",
        power=2.0,
    ),
    # 0.1 over the 999 other classes; here a share is spread over all 1,000.
    loss=dict(label_smoothing=0.1 * 1000 / 999),
    expect=Expectation("top1_error", 22.86, 0.5, "NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch, README table"),
)

if __name__ == "__main__":
    main(recipe)
