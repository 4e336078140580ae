"""AlexNet-BN on ImageNet at 512 images a step with LARS (You et al. 2017, section 5 and Table 3b).

Every parameter has its local rate, as the biases of Table 2 have.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/alexnet_bn_lars.py data.root=/data/imagenet
Published  top-1 error 39.8 % (one run)
Differs    in what alexnet_bn lists; solver_8K.prototxt of the author's later branch caffe-0.17-ls never
           lets a layer's rate exceed the global one (larc_policy: clip), which the paper's algorithm and
           the branch of its time, caffe-0.16_lars, do not have
Measured   not yet
"""

from alexnet_bn import recipe as baseline

from lbtrain import Expectation, main

# Peak learning rate 2.
recipe = baseline.vary(
    duration="100ep",
    optimizer=dict(name="lars", trust_coefficient=0.001, eps=0.0, no_trust_ratio=[]),
    schedule=dict(base_lr=2.0, warmup="5ep", warmup_start_lr=0.0, decay_from="start"),
    expect=Expectation("top1_error", 39.8, 0.5, "You et al. 2017, Table 3b"),
)

if __name__ == "__main__":
    main(recipe)
