"""ResNet-8 on digits at 720 images a step, the rate by the linear rule from the first step on.

Run        python recipes/digits/digits_720_no_warmup.py
Published  nothing: the data set is bundled with scikit-learn
Measured   top-1 error 1.29 ± 0.73 % (n=5, 1 rank; results/digits_methods.json)
"""

from digits_720 import recipe as gradual

from lbtrain import main

# Peak learning rate 1.125.
recipe = gradual.vary(schedule=dict(warmup="0ep"))

if __name__ == "__main__":
    main(recipe)
