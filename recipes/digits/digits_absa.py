"""ResNet-8 on digits from 32 to 256 images a step, as the curvature allows, adversarial images at first
(ABSA, Yao et al. 2018).

Run        python recipes/digits/digits_absa.py
Published  nothing: the data set is bundled with scikit-learn
Measured   top-1 error 0.78 ± 0.31 % (n=5, 1 rank; results/digits_methods.json)
"""

from digits import recipe as baseline

from lbtrain import Difference, main

# Peak learning rate 0.05.
recipe = baseline.vary(
    bn_momentum=0.3,
    absa=dict(max_batch_size=256, patience=4),
    log_every="10it",
    finding=Difference("digits/digits", "<=1.0", "Yao et al. 2018, abstract; the bound is ours"),
)

if __name__ == "__main__":
    main(recipe)
