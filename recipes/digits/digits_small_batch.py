"""ResNet-8 on digits at 4 images a step without momentum, the rate stated per example (Masters & Luschi
2018).

Run        python recipes/digits/digits_small_batch.py
Published  nothing: the data set is bundled with scikit-learn
Measured   top-1 error 1.12 ± 0.20 % (n=5, 1 rank; results/digits_methods.json)
"""

from digits import recipe as baseline

from lbtrain import main

# Peak learning rate 0.03125.
recipe = baseline.vary(
    batch_size=4,
    bn_batch_size=4,
    bn_momentum=0.02,
    duration="10ep",
    optimizer=dict(momentum=0.0),
    schedule=dict(
        base_lr=2**-7,
        base_batch_size=1,
        warmup="0ep",
        decay="step",
        milestones=["0.5dur", "0.75dur"],
        factor=0.1,
    ),
    log_every="100it",
)

if __name__ == "__main__":
    main(recipe)
