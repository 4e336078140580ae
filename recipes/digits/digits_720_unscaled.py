"""ResNet-8 on digits at 720 images a step, half the training set, with nothing scaled: what a larger batch
does by itself.

Run        python recipes/digits/digits_720_unscaled.py
Published  nothing: the data set is bundled with scikit-learn
Measured   top-1 error 52.77 ± 9.49 % (n=5, 2 ranks under deepspeed; results/digits_demo.json)
"""

from digits import recipe as baseline

from lbtrain import main

# Peak learning rate 0.05.
recipe = baseline.vary(batch_size=720, schedule=dict(rule="none", warmup="0ep"), log_every="1it")

if __name__ == "__main__":
    main(recipe)
