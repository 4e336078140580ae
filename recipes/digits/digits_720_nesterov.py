"""ResNet-8 on digits at 720 images a step with Nesterov's momentum, beside LARS and LAMB (Nado et al. 2021).

Rate and weight decay are the best of twelve trials (results/digits_tuning_720.json).

Run        python recipes/digits/digits_720_nesterov.py
Published  nothing: the data set is bundled with scikit-learn
Measured   top-1 error 1.23 ± 0.51 % (n=5, seeds 1001 to 1005, 1 rank; results/digits_tuning_720.json)
"""

from digits_720 import recipe as linear

from lbtrain import main

# Peak learning rate 0.6605.
recipe = linear.vary(
    optimizer=dict(nesterov=True, weight_decay=0.007805),
    schedule=dict(base_lr=0.6605, base_batch_size=720, rule="none", warmup="4ep", warmup_start_lr=0.0),
)

if __name__ == "__main__":
    main(recipe)
