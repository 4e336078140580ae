"""ResNet-8 on scikit-learn's handwritten digits at 32 images a step: the reference that the large-batch arms
are compared with.

Run        python recipes/digits/digits.py
           deepspeed --num_accelerators 2 recipes/digits/digits.py
Published  nothing: the data set is bundled with scikit-learn and small enough for a laptop
Measured   top-1 error 0.56 ± 0.34 % (n=5, 2 ranks under deepspeed; results/digits_demo.json)
"""

from lbtrain import Recipe, main

# Peak learning rate 0.05.
recipe = Recipe().vary(
    batch_size=32,
    bn_batch_size=8,
    duration="20ep",
    model=dict(name="cifar_resnet8"),
    data=dict(name="digits"),
    optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4),
    schedule=dict(base_lr=0.05, base_batch_size=32, rule="linear", warmup="2ep", decay="cosine"),
    evaluate_every="1ep",
    checkpoint=dict(every="10ep"),
    log_every="20it",
)

if __name__ == "__main__":
    main(recipe)
