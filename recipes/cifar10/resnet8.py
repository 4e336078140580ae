"""ResNet-8 on CIFAR-10 at 128 images a step: the reference that the large-batch arms are compared with.

Sixteen epochs in bf16, for two CPU cores: 800,000 images at 500 to 1,200 a second and core. The rate is the
best of four trials of four epochs (results/cifar10_tuning_128.json).

Run        python recipes/cifar10/resnet8.py data.root=/data/cifar10
Published  nothing: network and budget of epochs are chosen for two CPU cores
Measured   top-1 error 19.90 ± 0.06 % (n=3, 1 rank; results/cifar10_methods.json)
"""

from lbtrain import Recipe, main

# Peak learning rate 0.1616.
recipe = Recipe().vary(
    batch_size=128,
    bn_batch_size=128,
    bn_update="ghost_batch",
    max_micro_batch_size=128,
    duration="16ep",
    precision="bf16",
    channels_last=True,
    model=dict(name="cifar_resnet8"),
    data=dict(name="cifar10", augmentation="crop_flip"),
    optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
    schedule=dict(base_lr=0.1616, base_batch_size=128, rule="linear", warmup="0ep", decay="cosine"),
    validation_batch_size=500,
    evaluate_every="2ep",
    log_every="0.02dur",
)

if __name__ == "__main__":
    main(recipe)
