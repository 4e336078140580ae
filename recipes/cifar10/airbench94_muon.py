"""airbench94 on CIFAR-10 at 2,000 images a step in 8 epochs: Muon for the convolutions, tuned for 94 %
(Jordan 2024).

Read in airbench94_muon.py of KellerJordan/cifar10-airbench. There SGD steps the classifier and the shifts of
the norms, by rates for the sum of the losses; here AdamW does, with the ratio of rates and the moments of the
same author's example (README of KellerJordan/Muon: 3e-4 beside Muon's 0.02; 0.9 and 0.95).

Run        python recipes/cifar10/airbench94_muon.py data.root=/data/cifar10
Published  nothing for exactly this setting; its README has a top-1 error of 5.99 % (mean of 200 runs)
Differs    AdamW without decay where the source has SGD with a decay; no rescaling of each convolution to a
           norm of sqrt(filters) before its step; orthogonalised in fp32 (there bf16); and in flips,
           translations, whitening bias and views as airbench94. Hence no expectation
Measured   not yet
"""

from airbench94 import recipe as sgd

from lbtrain import main

# Peak learning rate 0.24.
recipe = sgd.vary(
    batch_size=2000,
    bn_batch_size=2000,
    duration="8ep",
    optimizer=dict(
        name="muon",
        momentum=0.6,
        newton_schulz_steps=3,
        weight_decay=0.0,
        no_muon=["head"],
        adamw_lr_ratio=3e-4 / 0.02,
        beta2=0.95,
    ),
    schedule=dict(base_lr=0.24, base_batch_size=2000, warmup="0ep", warmup_start_share=None, end_lr=0.0),
)

if __name__ == "__main__":
    main(recipe)
