"""ResNet-8 on digits at 720 images a step with LARS, whose steps are scaled layer by layer (You et al. 2017).

Run        python recipes/digits/digits_720_lars.py
Published  nothing: the data set is bundled with scikit-learn
Measured   top-1 error 2.24 ± 0.89 % (n=5, as an arm of the sweep; results/digits_sweep.json)
"""

from digits_720 import recipe as linear

from lbtrain import main

# Peak learning rate 16.
recipe = linear.vary(
    optimizer=dict(name="lars", trust_coefficient=0.001, weight_decay=1e-4),
    schedule=dict(
        base_lr=16.0,
        base_batch_size=720,
        rule="sqrt",
        warmup="4ep",
        warmup_start_lr=0.0,
        decay="poly",
        power=2.0,
    ),
)

if __name__ == "__main__":
    main(recipe)
