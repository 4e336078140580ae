"""ResNet-8 on digits at 720 images a step for as many steps as at 32: square root, ghost batches, regime
adaptation (Hoffer et al. 2017).

Run        python recipes/digits/digits_720_regime.py
Published  nothing: the data set is bundled with scikit-learn
Measured   top-1 error 0.62 ± 0.46 % (n=5, 1 rank; results/digits_methods.json)
"""

from digits import recipe as small_batch

from lbtrain import main

# Peak learning rate 0.2372.
recipe = small_batch.vary(
    batch_size=720,
    optimizer=dict(clip_norm=5.0),
    schedule=dict(rule="sqrt", regime_adaptation=True),
    evaluate_every="20ep",
    checkpoint=dict(every="100ep"),
)

if __name__ == "__main__":
    main(recipe)
