"""Every check that rejects a recipe before a process is launched, each with a suggested fix.

What only the data or the model can tell (a damaged file, an argument that timm does not take) is rejected
where they are read.
"""

import dataclasses
import math
import re
from collections.abc import Callable

from lbtrain.errors import RecipeError
from lbtrain.plan.scaling import peak_lr, regime_factor, scaled_optimizer
from lbtrain.plan.validate_engine import check_engine
from lbtrain.recipe import Recipe, inactive_keys, value_of, written
from lbtrain.recipe.durations import Duration
from lbtrain.recipe.sections.fields import COCO_FORMAT
from lbtrain.recipe.sections.running import BEST_OF_CLASSIFIERS

_WEIGHTED_OPERATIONS = {"weights": 15, "3aw": 14}
"""From how many timm's RandAugment draws without replacement, where they have weights: see -t."""


def check_recipe(recipe: Recipe, engine: str) -> None:
    """Raises RecipeError for settings that contradict each other, do nothing, or cannot run under
    `engine`.
    """
    _check_inactive(recipe, engine)
    _check_durations(recipe)
    _check_schedule(recipe)
    _check_batch_sizes(recipe)
    _check_task(recipe)
    _check_targets(recipe)
    check_engine(recipe, engine)


def _check_inactive(recipe: Recipe, engine: str) -> None:
    """Rejects keys that were set and do nothing in this recipe; they look as if they did."""
    found = [_without_effect(recipe, key, condition) for key, condition in inactive_keys(recipe).items()]
    if recipe.deepspeed.config and engine != "deepspeed":
        found.append(
            f"deepspeed.config={recipe.deepspeed.config} has no effect under engine={engine}. Remove it, or "
            "use engine=deepspeed."
        )
    if found:
        raise RecipeError(" ".join(found))


def _without_effect(recipe: Recipe, key: str, condition: str) -> str:
    other, _, values = condition.partition("=")
    setting = f"{key}={written(recipe, key)} has no effect with {other}={written(recipe, other)}"
    if not values:
        return f"{setting}. Remove it, or set {other} to a positive value."
    return f"{setting}; it needs {other}={' or '.join(values.split('|'))}. Remove it, or change {other}."


def _check_durations(recipe: Recipe) -> None:
    for key in ("duration", "log_every", "evaluate_every", "checkpoint.every", "absa.every"):
        if not value_of(recipe, key):
            raise RecipeError(f"{key}={written(recipe, key)} must be positive. Write 1ep, for example.")
    if recipe.duration.unit == "dur":
        raise RecipeError(
            f"duration={recipe.duration} is a share of itself. Give the length of a run in epochs (90ep) or "
            "in steps (500it)."
        )


def _check_schedule(recipe: Recipe) -> None:
    rate = recipe.schedule
    optimizer = scaled_optimizer(recipe)  # rejects betas that the square-root rule makes negative
    if optimizer.name in ("lamb", "muon", "adamw", "nadamw") and not optimizer.eps:
        raise RecipeError(f"optimizer.eps=0 divides by zero with optimizer.name={optimizer.name}. Use 1e-8.")
    if optimizer.momentum >= 1:
        raise RecipeError(f"optimizer.momentum_table: {optimizer.momentum:g} must be below 1.")
    if rate.end_lr > peak_lr(recipe):
        raise RecipeError(
            f"schedule.end_lr={rate.end_lr:g} is above the peak learning rate of {peak_lr(recipe):g}. Choose "
            "a smaller one."
        )
    if not rate.decay_until:
        raise RecipeError("schedule.decay_until must be positive. Write 1dur for the end of the run.")
    if rate.warmup_start_lr is not None and rate.warmup_start_share is not None:
        raise RecipeError(
            "schedule.warmup_start_lr and schedule.warmup_start_share both say where the warm-up starts. "
            "Set one of the two."
        )
    stretched = regime_factor(rate, recipe.batch_size) > 1 and rate.warmup.unit == "ep" and rate.warmup
    if stretched and rate.warmup_rule == "linear":
        raise RecipeError(
            "schedule.regime_adaptation=true and schedule.warmup_rule=linear both lengthen the warm-up with "
            "the batch. Set schedule.warmup_rule=none, or switch regime adaptation off."
        )


def _check_targets(recipe: Recipe) -> None:
    """Rejects targets that no evaluation of this recipe could reach."""
    known, example = r"(ema_)?(top[15]_(error|accuracy)|loss)", "top1_accuracy>=75.9"
    if finds := recipe.model.finds:
        known = rf"(ema_)?({'|'.join(finds)})_ap(50|75|_small|_medium|_large)?"
        example = f"{finds[0]}_ap>=33.9"
    for target in recipe.stop_at:
        if not re.fullmatch(known, target.metric):
            raise RecipeError(f"stop_at={target}: evaluations have no {target.metric}. Write {example}.")
        if target.metric.startswith("ema_") and not recipe.ema.decay:
            raise RecipeError(f"stop_at={target} needs an average of the weights. Set ema.decay.")
        if recipe.data.validation_root == "none":
            raise RecipeError(
                f"stop_at={target} needs evaluations, and data.validation_root=none. Leave out one of them."
            )


def _check_batch_sizes(recipe: Recipe) -> None:
    if 0 < recipe.max_micro_batch_size < recipe.micro_batch_size:
        raise RecipeError(
            f"micro_batch_size={recipe.micro_batch_size} is above "
            f"max_micro_batch_size={recipe.max_micro_batch_size}. Set one of the two."
        )
    most = recipe.absa.max_batch_size
    if 0 < most <= recipe.batch_size:
        raise RecipeError(
            f"absa.max_batch_size={most} must be above batch_size={recipe.batch_size}. 0 switches ABSA off."
        )
    if most and recipe.precision == "fp16":
        raise RecipeError(
            f"absa.max_batch_size={most} takes second derivatives, which vanish in fp16. Use precision=bf16."
        )
    _check_batch_changes(recipe)


def _check_batch_changes(recipe: Recipe) -> None:
    """Rejects two rules for one batch, and image sizes whose batches the rest of the recipe cannot follow."""
    schedule, sizes = recipe.schedule, recipe.schedule.image_sizes
    batches = [point.batch_size for point in sizes if point.batch_size]
    rules = {
        "absa.max_batch_size": recipe.absa.max_batch_size,
        "schedule.batch_growth": schedule.batch_growth,
        "the batches of schedule.image_sizes": batches,
    }
    chosen = [name for name, value in rules.items() if value]
    if len(chosen) > 1:
        raise RecipeError(f"{chosen[0]} and {chosen[1]} both say how the batch changes. Set one of the two.")
    if recipe.absa.max_batch_size and sizes:
        raise RecipeError(
            "absa.max_batch_size and schedule.image_sizes do not go together: a curvature that is compared "
            "over the run needs images of one size. Set one of the two."
        )
    if chosen and recipe.model.batch_norm == "sync":
        raise RecipeError(
            f"model.batch_norm=sync takes statistics over the whole batch, which {chosen[0]} changes here. "
            "Use model.batch_norm=ghost and a bn_batch_size that divides every batch."
        )
    if chosen and not batches and recipe.optimizer.momentum_table:
        raise RecipeError(
            f"optimizer.momentum_table gives the momentum of one batch size, which {chosen[0]} changes. Use "
            "optimizer.momentum."
        )
    for size in batches:
        if scaled_optimizer(dataclasses.replace(recipe, batch_size=size)) != scaled_optimizer(recipe):
            raise RecipeError(
                f"schedule.image_sizes: at batch_size={size} the optimizer would have other moments or "
                "another momentum, which stay the same over a run. Use schedule.rule=none or linear without "
                "optimizer.momentum_table."
            )


def _check_task(recipe: Recipe) -> None:
    library = recipe.model.library
    if (library == "timm") == (recipe.data.name in ("shapes", *COCO_FORMAT)):
        raise RecipeError(
            f"model.library={library} cannot be trained on data.name={recipe.data.name}. Classifiers "
            "(model.library=timm) take labelled images; detectors (torchvision, detectron2) take shapes, "
            "coco or openimages."
        )
    if library == "timm" and recipe.model.batch_norm == "frozen":
        raise RecipeError(
            "model.batch_norm=frozen is for the backbone of a detector. Use ghost or sync for a classifier."
        )
    if library != "timm":
        _check_detection(recipe)
    _check_augmentation(recipe)
    _check_best(recipe)


def _check_augmentation(recipe: Recipe) -> None:
    data, drop_path = recipe.data, recipe.model.drop_path
    if data.augmentation == "imagenet_color" and (data.auto_augment or data.color_jitter):
        raise RecipeError(
            "data.augmentation=imagenet_color moves the colours itself, to values that no image file holds, "
            "and data.auto_augment and data.color_jitter take whole grey levels. Use "
            "data.augmentation=imagenet."
        )
    sets, layers = (re.findall(words, data.auto_augment) for words in (r"-t(\w+)", r"-n(\d+)"))
    most = _WEIGHTED_OPERATIONS.get(sets[0], math.inf) if sets else math.inf
    if layers and int(layers[-1]) > most:
        raise RecipeError(
            f"data.auto_augment={data.auto_augment} draws from {most} operations once each. Use at most "
            f"-n{most}."
        )
    for key in ("loss.mixup", "loss.cutmix"):
        if value_of(recipe, key) and recipe.bn_batch_size == 1:
            group = math.gcd(32, recipe.batch_size)
            remedy = f"bn_batch_size={group}" if group > 1 else "a larger bn_batch_size"
            raise RecipeError(
                f"{key}={written(recipe, key)} has no effect with bn_batch_size=1: images are mixed in "
                f"groups of that many. Use {remedy}, or remove {key}."
            )
    if drop_path and "drop_path_rate" in recipe.model.args:
        raise RecipeError(
            f"model.drop_path={drop_path:g} and model.args drop_path_rate say the same. Set one of the two."
        )


def _check_best(recipe: Recipe) -> None:
    best, model = recipe.checkpoint.best, recipe.model
    known = [f"{kind}_ap" for kind in model.finds] or BEST_OF_CLASSIFIERS
    if best and best.removeprefix("ema_") not in known:
        named = f"detector={model.detector}" if model.library == "torchvision" else f"library={model.library}"
        raise RecipeError(
            f"checkpoint.best={best} is not a metric of model.{named}. Use {' or '.join(known)}."
        )
    if best.startswith("ema_") and not recipe.ema.decay:
        raise RecipeError(f"checkpoint.best={best} needs an average of the weights. Set ema.decay.")
    if best and recipe.data.validation_root == "none":
        raise RecipeError(
            f"checkpoint.best={best} needs evaluations, and data.validation_root=none. Leave out one of them."
        )


def _check_detection(recipe: Recipe) -> None:
    """Rejects what is for classifiers, or is not held by a test for detection."""
    augmentation = recipe.data.augmentation
    settings = {
        "absa.max_batch_size": recipe.absa.max_batch_size,
        # Images of a detection step are padded to one size, in steps of the batch that the run starts with.
        "schedule.batch_growth": recipe.schedule.batch_growth,
        "schedule.image_sizes": recipe.schedule.image_sizes,
        "data.augmentation": "" if augmentation in ("none", "flip") else augmentation,
    }
    for key, value in settings.items():
        if value:
            raise RecipeError(
                f"{key}={written(recipe, key)} is for classifiers (model.library=timm), but this recipe has "
                f"model.library={recipe.model.library}. Remove it."
            )


def check_top5(recipe: Recipe, num_classes: int) -> None:
    """Raises RecipeError where a top-5 metric is asked for and evaluations have none."""
    metrics = [recipe.checkpoint.best, *(target.metric for target in recipe.stop_at)]
    asked = next((metric for metric in metrics if "top5" in metric), "")
    if asked and num_classes <= 5:
        raise RecipeError(
            f"{asked} needs more than five classes, and the data set has {num_classes}. Use top1_error."
        )


def check_world_size(recipe: Recipe, world_size: int) -> None:
    """Raises RecipeError for a number of ranks that the recipe does not allow."""
    if recipe.world_size not in (0, world_size):
        raise RecipeError(
            f"world_size={recipe.world_size} rejects every other number of ranks. Use {recipe.world_size}, "
            "or leave world_size out."
        )


def check_image_sizes(recipe: Recipe, scheduled: Callable[[Duration], float]) -> None:
    """Raises RecipeError for several image sizes at one position (`scheduled` gives it in examples), however
    they are written.
    """
    by_position: dict[float, list[str]] = {}
    for point in recipe.schedule.image_sizes:
        by_position.setdefault(scheduled(point.at), []).append(str(point.at))
    for written_as in by_position.values():
        if len(written_as) > 1:
            raise RecipeError(
                f"schedule.image_sizes has several entries at {' = '.join(dict.fromkeys(written_as))}, and a "
                "step has images of one size. Keep one of them."
            )
