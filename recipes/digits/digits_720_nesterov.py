"""ResNet-8 on digits at 720 images a step with Nesterov's momentum, beside LARS and LAMB (Nado et al. 2021).

Run        python recipes/digits/digits_720_nesterov.py
Published  nothing: the data set is bundled with scikit-learn
Measured   not yet
"""

from digits_720 import recipe as linear

from lbtrain import main

# Peak learning rate 0.75.
recipe = linear.vary(
    optimizer=dict(nesterov=True, weight_decay=0.005),
    schedule=dict(base_lr=0.75, base_batch_size=720, rule="none", warmup="4ep", warmup_start_lr=0.0),
)

if __name__ == "__main__":
    main(recipe)
