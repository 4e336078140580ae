"""Hoffer's fully connected network F1 on MNIST at 4,096 images a step for as many steps as at 128 (Hoffer et
al. 2017, Table 1, fifth arm: + RA).

Run        torchrun --nproc_per_node 8 recipes/mnist/hoffer_f1_4k_regime.py data.root=/data/mnist
Published  Hoffer et al. 2017, Table 1 (its figures were not at hand; none is stated here)
Differs    in what hoffer_f1 lists
Measured   not yet
"""

from hoffer_f1_4k_ghost_bn import recipe as ghost_bn

from lbtrain import Difference, main

# Peak learning rate 0.5657.
recipe = ghost_bn.vary(
    schedule=dict(regime_adaptation=True),
    checkpoint=dict(every="10ep"),
    evaluate_every="10ep",
    finding=Difference("mnist/hoffer_f1", "<=0.5", "Hoffer et al. 2017, Table 1; the bound is ours"),
)

if __name__ == "__main__":
    main(recipe)
