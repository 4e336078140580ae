"""A recipe of four steps on digits, with a checkpoint and an evaluation after every second one."""

from lbtrain import Recipe

FOUR_STEPS = Recipe().vary(
    batch_size=32,
    bn_batch_size=8,
    duration="4it",
    model=dict(name="cifar_resnet8"),
    data=dict(name="digits"),
    schedule=dict(base_lr=0.05, base_batch_size=32, warmup="0it", decay="none"),
    evaluate_every="2it",
    log_every="1it",
    checkpoint=dict(every="2it"),
)
