"""How the pixels of photos become inputs: mean and standard deviation, the share of a scored image that its
central crop takes, and the interpolation.

What a recipe does not say is the model's own, as timm's pretrained configurations give it: a model with
published weights was made for that. Models without one, and sources opened without a model, take ImageNet's
mean and deviation, 0.875 (224 of 256) and bilinear.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lbtrain.errors import RecipeError
from lbtrain.recipe import DataConfig

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
LEVELS_BEFORE = {"mean": [*IMAGENET_MEAN], "std": [*IMAGENET_STD]}
"""What detectors had before a recipe could set it, and their checkpoints said it."""
CROP_SHARE = 0.875
_INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class PixelRules:
    """mean, std: per channel, in units of 0 to 255."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_share: float = CROP_SHARE
    interpolation: str = "bilinear"


def photo_rules(config: DataConfig, model: str) -> PixelRules:
    """Of a data set of photos, for a classifier of that name ("": none)."""
    own = _of_model(model)
    return PixelRules(
        levels(config.mean, "data.mean", own.mean),
        levels(config.std, "data.std", own.std),
        config.crop_share or own.crop_share,
        own.interpolation if config.interpolation == "model" else config.interpolation,
    )


def _of_model(model: str) -> PixelRules:
    import timm

    known = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    if not known or not known.has_weights:
        return PixelRules()
    return PixelRules(
        tuple(255 * value for value in known.mean),
        tuple(255 * value for value in known.std),
        min(1.0, float(known.crop_pct)),  # above 1, timm pads the image; here it is scaled to fill the crop
        # The others that timm names (nearest, lanczos, random) have no antialiased form in torch.
        known.interpolation if known.interpolation in _INTERPOLATIONS else "bicubic",
    )


def notes_on_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for all that makes other inputs of the same images than the run had so far, as the checkpoint
    says of it (`inputs`).
    """
    old = {**LEVELS_BEFORE, **before}
    return [
        f"note: {key} of the inputs was {old[key]}, is {value} since the checkpoint"
        for key, value in now.items()
        if before and key in old and old[key] != value
    ]


def levels(texts: Sequence[str], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """What a key says per channel, in units of 0 to 255. Raises RecipeError for a wrong count."""
    if texts and len(texts) != len(default):
        raise RecipeError(
            f"{key}={','.join(texts)}: {len(texts)} numbers, but the images have {len(default)} channels"
        )
    return tuple(255 * float(text) for text in texts) or default
