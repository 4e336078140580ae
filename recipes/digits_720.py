"""ResNet-8 on digits at 720 images a step, repaired: linear scaling and a gradual warm-up (Goyal et al. 2017, sections 2.1 and 2.2).

Run        python recipes/digits_720.py
Published  nothing: the data set is bundled with scikit-learn
Measured   not yet
"""

from digits import recipe as baseline

from lbtrain import main

recipe = baseline.vary(batch_size=720, schedule=dict(rule="linear", warmup="5ep"), log_every="1it")

if __name__ == "__main__":
    main(recipe)
