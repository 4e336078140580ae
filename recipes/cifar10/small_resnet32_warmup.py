"""ResNet-32 on CIFAR-10 at 128 images a step with a warm-up from 1/32 of the rate (Masters & Luschi 2018,
section 3.4 and Figure 10).

Run        python recipes/cifar10/small_resnet32_warmup.py data.root=/data/cifar10
Published  with the warm-up, batches up to 128 are still good (a figure without numbers)
Differs    in what small_resnet32 lists
Measured   not yet
"""

from small_resnet32 import recipe as small

from lbtrain import Difference, main

# Peak learning rate 0.5.
recipe = small.vary(
    batch_size=128,
    bn_batch_size=128,
    schedule=dict(warmup="0.05dur", warmup_start_share=2**-5),
    log_every="50it",
    finding=Difference(
        "cifar10/small_resnet32", "<=1.0", "Masters & Luschi 2018, Figure 10; the bound is ours"
    ),
)


if __name__ == "__main__":
    main(recipe)
