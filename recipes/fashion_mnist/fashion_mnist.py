"""A reduced AlexNet on the first 4,096 images of Fashion-MNIST at 32 images a step: the reference of the arms
below it.

A small part of the training set, so that a run takes seconds; all 10,000 test images are scored.
data.train_examples=0 trains on all 60,000. The learning rate was chosen on seed 100, not on those that a
study starts with.

Run        python recipes/fashion_mnist/fashion_mnist.py data.root=/data
Published  nothing: the data set is cut for a laptop
Measured   top-1 error 13.24 ± 0.21 % (n=5, 1 rank; results/fashion_methods.json)
"""

from lbtrain import Recipe, main

# Peak learning rate 0.02.
recipe = Recipe().vary(
    batch_size=32,
    bn_batch_size=32,
    duration="10ep",
    model=dict(name="reduced_alexnet", args={"batch_norm": "conv"}),
    data=dict(name="fashion_mnist", train_examples=4096),
    optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
    schedule=dict(
        base_lr=0.02, base_batch_size=32, rule="linear", warmup="2ep", warmup_start_lr=0.0, decay="cosine"
    ),
    log_every="20it",
    evaluate_every="5ep",
    validation_batch_size=500,
)

if __name__ == "__main__":
    main(recipe)
