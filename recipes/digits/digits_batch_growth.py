"""ResNet-8 on digits from 32 to 288 images a step: the batch grows threefold twice, in place of a decay of
the rate (Smith et al. 2018).

Run        python recipes/digits/digits_batch_growth.py
Published  nothing: the data set is bundled with scikit-learn
Measured   top-1 error 0.56 ± 0.20 % (n=5, 1 rank; results/digits_methods.json)
"""

from digits import recipe as baseline

from lbtrain import main

# Peak learning rate 0.05.
recipe = baseline.vary(
    bn_momentum=0.3, schedule=dict(decay="none", batch_growth=["10ep:3", "15ep:3"]), log_every="10it"
)

if __name__ == "__main__":
    main(recipe)
