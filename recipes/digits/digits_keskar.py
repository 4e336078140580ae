"""Keskar's fully connected network F1 on digits at 16 images a step with Adam: the small batch (Keskar et al.
2017).

model.name=keskar_f2 is its F2, with two layers more.

Run        python recipes/digits/digits_keskar.py
Published  nothing: the data set is bundled with scikit-learn
Measured   not yet
"""

from lbtrain import Recipe, main

# Peak learning rate 0.001.
recipe = Recipe().vary(
    batch_size=16,
    bn_batch_size=16,
    duration="20ep",
    model=dict(name="keskar_f1", args={"side": 8}),
    data=dict(name="digits"),
    optimizer=dict(name="adamw", weight_decay=0.0, eps=1e-8),
    schedule=dict(base_lr=0.001, base_batch_size=16, rule="none", warmup="0ep", decay="none"),
    log_every="1ep",
)

if __name__ == "__main__":
    main(recipe)
