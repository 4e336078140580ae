"""airbench94 on CIFAR-10 at 1,024 images a step in 9.9 epochs: Nesterov's momentum, tuned for 94 % (Jordan
2024).

Read in legacy/airbench94.py of KellerJordan/cifar10-airbench. Its rate and decay are decoupled: 11.5 per
1,024 images over 1 + 1 / (1 - momentum) is 1.5 for the mean of the loss, and a decay of 0.0153 is 0.0153 /
11.5 times that rate.

Run        python recipes/cifar10/airbench94.py data.root=/data/cifar10
Published  nothing for exactly this setting; its README has a top-1 error of 5.99 % (mean of 1,000 runs)
Differs    random flips (there every other epoch), translations by up to 4 pixels of a black border (there 2,
           reflected); a whitening bias that is trained to the end (there for 3 epochs); no averaging of
           weights every 5 steps (Lookahead); scored on one view (there 6). Hence no expectation
Measured   not yet
"""

from lbtrain import Recipe, main

# Peak learning rate 1.5.
recipe = Recipe().vary(
    batch_size=1024,
    bn_batch_size=1024,
    bn_momentum=0.4,
    duration="9.9ep",
    precision="bf16",
    channels_last=True,
    model=dict(name="airbench94"),
    data=dict(name="cifar10", augmentation="crop_flip"),
    optimizer=dict(name="sgd", momentum=0.85, nesterov=True, weight_decay=0.0153 / 11.5, no_decay=[]),
    loss=dict(label_smoothing=0.2),
    schedule=dict(
        base_lr=1.5,
        base_batch_size=1024,
        warmup="0.23dur",
        warmup_start_share=0.2,
        decay="poly",
        power=1.0,
        end_lr=0.105,
    ),
)

if __name__ == "__main__":
    main(recipe)
