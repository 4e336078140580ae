"""ResNet-8 on the first 4,096 images of Fashion-MNIST, fine-tuned from the weights of the digits recipe.

Both have ten classes of grey images, so the classifier is kept and trained ten times as fast as the rest.
model.weights is the run directory of recipes/digits/digits.py; without it the same network starts from random
weights.

Run        python recipes/digits/digits.py run_dir=runs/digits
           python recipes/fashion_mnist/resnet8_from_digits.py data.root=/data model.weights=runs/digits
Published  nothing: the data set is cut for a laptop
Measured   top-1 error 18.76 ± 0.22 % (n=5, 1 rank; results/fashion_finetune.json)
"""

from lbtrain import Recipe, main

# Peak learning rate 0.02.
recipe = Recipe().vary(
    batch_size=32,
    bn_batch_size=32,
    duration="5ep",
    model=dict(name="cifar_resnet8"),
    data=dict(name="fashion_mnist", train_examples=4096),
    optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4, head_lr_ratio=10.0),
    schedule=dict(base_lr=0.02, base_batch_size=32, rule="linear", warmup="1ep", decay="cosine"),
    log_every="20it",
    validation_batch_size=500,
)

if __name__ == "__main__":
    main(recipe)
