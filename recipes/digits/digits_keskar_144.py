"""Keskar's fully connected network F1 on digits at 144 images a step with Adam: the large batch, a tenth of
the data (Keskar et al. 2017).

Run        python recipes/digits/digits_keskar_144.py
Published  nothing: the data set is bundled with scikit-learn
Measured   not yet
"""

from digits_keskar import recipe as small_batch

from lbtrain import Difference, main

# Peak learning rate 0.001.
recipe = small_batch.vary(
    batch_size=144,
    bn_batch_size=144,
    finding=Difference("digits/digits_keskar", ">0.0", "Keskar et al. 2017, Table 2"),
)

if __name__ == "__main__":
    main(recipe)
