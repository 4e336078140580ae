"""checkpoint.*, log.*, deepspeed.*, colossalai.*, measure.*: what runs beside the mathematics of a recipe."""

from dataclasses import dataclass

from lbtrain.recipe.durations import Duration
from lbtrain.recipe.sections.fields import Unassignable, key, length

BEST_OF_CLASSIFIERS = ("top1_error", "top5_error", "loss")
"""Metrics of an evaluation by which a checkpoint can be the best."""


@dataclass
class CheckpointConfig(Unassignable):
    every: Duration = length("1ep", "How often to save a checkpoint.")
    keep: int = key(2, "How many of the newest checkpoints to keep.", at_least=1)
    best: str = key(
        "",
        "Also keep the checkpoint of the best evaluation by this metric, as checkpoints/best.pt. Empty: the "
        "newest only.",
        choices=(
            "",
            *BEST_OF_CLASSIFIERS,
            *(f"ema_{name}" for name in BEST_OF_CLASSIFIERS),
            "mask_ap",
            "box_ap",
        ),
    )


@dataclass
class LogConfig(Unassignable):
    trackers: list[str] = key(
        ["tensorboard"],
        "Experiment trackers beside metrics.jsonl and summary.csv: tensorboard, and through accelerate "
        "wandb, trackio, mlflow, comet_ml.",
        choices=("tensorboard", "wandb", "trackio", "mlflow", "comet_ml"),
    )


@dataclass
class DeepSpeedConfig(Unassignable):
    zero_stage: int = key(
        0,
        "ZeRO stage: 0 is plain data parallelism, 1 shards optimizer states, 2 also gradients, 3 also "
        "weights.",
        choices=(0, 1, 2, 3),
    )
    config: str = key(
        "",
        "A DeepSpeed JSON file with settings that do not change the mathematics, such as buckets and "
        "offload (see recipes/deepspeed).",
        path=True,
    )


@dataclass
class ColossalAIConfig(Unassignable):
    zero_stage: int = key(
        0,
        "ZeRO stage: 0 is plain data parallelism (TorchDDPPlugin), 1 shards optimizer states, 2 also "
        "gradients (LowLevelZero).",
        choices=(0, 1, 2, 3),
    )


@dataclass
class MeasureConfig(Unassignable):
    noise_scale: Duration = length(
        "0it", "How often to measure the gradient noise scale, such as 50it. 0it: never."
    )
    layers: bool = key(
        False,
        "Also record noise scale, weight norm and gradient norm of every layer (You et al. 2017, Table 2).",
        needs="measure.noise_scale",
    )
    distance: bool = key(
        False,
        "Record with every logged row how far the weights are from their initial values. This keeps a copy "
        "of the initial values.",
    )
