"""Recipe + world -> Plan: every number that follows from the two, worked out before a process is launched.

What cannot be (a batch that does not divide, a ghost batch that would be torn) is refused here, with the
sizes that would work.
"""

import dataclasses
import json
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lbtrain.data import DatasetInfo, dataset_info
from lbtrain.errors import RecipeError
from lbtrain.plan.batching import BatchSplit, Phase, phase_starts, split_batch, steps_before
from lbtrain.plan.capabilities import check_engine
from lbtrain.plan.scaling import peak_lr, regime_factor, warmup_start
from lbtrain.plan.schedules import LearningRate
from lbtrain.plan.statistics import ModelStatistics, memory_estimate, model_statistics
from lbtrain.recipe import DataConfig, Recipe, ScheduleConfig
from lbtrain.recipe.durations import BatchGrowth, Duration, Milestone

GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """Everything a run follows. Learning rates are per optimizer step; positions in the run are in examples;
    memory is bytes per rank.

    `batch_size` and `cut` are those that the run starts with, the first of `phases`.
    """

    world_size: int
    engine: str
    precision: str
    skip_nonfinite: int
    max_overflows: int
    min_loss_scale: float
    channels_last: bool
    batch_size: int
    split: BatchSplit
    phases: tuple[Phase, ...]
    ladder: tuple[Phase, ...]
    """ABSA: what the batch may become, step by step; empty for a batch that the plan decides."""
    absa_every: float
    absa_adversarial_until: float
    bn_batch_size: int
    ghost_batches_per_step: int
    train_examples: int
    total_examples: int
    total_steps: int
    warmup_steps: float
    base_lr: float
    base_batch_size: int
    rule: str
    regime_factor: int
    learning_rate: LearningRate
    clip_norm: float
    zero_stage: int
    statistics: ModelStatistics
    memory: dict[str, int]
    log_every: float
    evaluate_every: float
    checkpoint_every: float
    noise_every: float
    noise_layers: bool
    notes: tuple[str, ...]

    @property
    def steps_per_epoch(self) -> float:
        return self.train_examples / self.batch_size

    def lr(self, examples: int) -> float:
        """The learning rate of the step that starts after `examples` examples."""
        return self.learning_rate(min(1.0, examples / self.total_examples))

    def phase(self, examples: int) -> Phase:
        """The phase of the step that starts after `examples` examples."""
        return self.phases[bisect_right(self.phases, examples, key=lambda phase: phase.start) - 1]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self) | {"steps_per_epoch": self.steps_per_epoch}, indent=1)

    def _epochs(self, shares: tuple[float, ...]) -> list[str]:
        return [f"{share * self.total_examples / self.train_examples:.4g}" for share in shares]

    def _falls(self) -> str:
        rate = self.learning_rate
        if not rate.milestones:
            return ", never"
        factors = rate.factors[:1] if len(set(rate.factors)) == 1 else rate.factors
        return (
            f" by {', '.join(f'{factor:g}' for factor in factors)} at epochs "
            f"{', '.join(self._epochs(rate.milestones))}"
        )

    def _growth(self) -> str:
        texts = [
            f"to {phase.batch_size:,} ({phase.split.micro_batch_size} x {phase.split.accumulation})"
            + ("" if self.ladder else f" at epoch {phase.start / self.train_examples:.4g}")
            for phase in (self.ladder or self.phases)[1:]
        ]
        return ("as the loss flattens " if self.ladder else "") + "; ".join(texts) or "no"

    def rows(self) -> dict[str, str]:
        """What a person checks before a run, by name."""
        rate, split, statistics = self.learning_rate, self.split, self.statistics
        ghost = f"{self.bn_batch_size}" + (
            f" over {split.ranks_per_ghost} ranks" if split.ranks_per_ghost > 1 else ""
        )
        return {
            "world size": f"{self.world_size}",
            "batch size (global)": f"{self.batch_size:,}",
            "micro-batch x accumulation": f"{split.micro_batch_size} x {split.accumulation}",
            "batch grows": self._growth(),
            "batch-norm batch": ghost if statistics.batch_norm_layers else "no batch norm",
            "ghost batches a step": f"{self.ghost_batches_per_step}" if statistics.batch_norm_layers else "-",
            "reference learning rate": "table"
            if self.rule == "table"
            else f"{self.base_lr:g} at {self.base_batch_size:,}, {self.rule} rule",
            "regime adaptation": f"epochs x {self.regime_factor}" if self.regime_factor > 1 else "none",
            "peak learning rate": f"{rate.peak:.6g}",
            "per example": f"{rate.peak / self.batch_size:.6g}",
            "warm-up": f"{rate.warmup_form} from {rate.warmup_start:.6g}, {self.warmup_steps:,.1f} steps"
            if self.warmup_steps
            else "none",
            "decay": rate.decay + (self._falls() if rate.decay == "step" else ""),
            "steps an epoch": f"{self.steps_per_epoch:,.2f}",
            "steps in all": ("at most " if self.ladder else "") + f"{self.total_steps:,}",
            "parameters": f"{statistics.parameters:,}",
            "without weight decay": f"{statistics.not_decayed:,}",
            "without layer adaptation": f"{statistics.without_trust_ratio:,}",
            "gradient clipping": f"norm {self.clip_norm:g}" if self.clip_norm else "none",
            "precision": self.precision + (", channels last" if self.channels_last else ""),
            "engine": self.engine
            + (f", ZeRO stage {self.zero_stage}" if self.engine in ("deepspeed", "colossalai") else ""),
            "memory a rank (estimate)": f"{sum(self.memory.values()) / GIB:.3g} GiB",
        }


def make_plan(
    recipe: Recipe, world_size: int, *, engine: str = "ddp", statistics: ModelStatistics | None = None
) -> Plan:
    """Raises RecipeError for what cannot be. `model_census` saves counting the model again for another world
    size.
    """
    _check_combinations(recipe, engine)
    dataset = dataset_info(recipe.data)
    statistics = statistics or model_statistics(recipe, dataset)
    ghost = _ghost_size(recipe, statistics)
    total = _total_examples(recipe, dataset)
    phases = _phases(recipe, dataset, total, world_size, ghost)
    split, ladder = phases[0].split, _ladder(recipe, world_size, ghost)
    _check_measured(recipe, phases + ladder, world_size, ghost, engine)

    def share(text: str, name: str) -> float:
        return _schedule_examples(text, name, recipe, dataset, total) / total

    rate, peak = recipe.schedule, peak_lr(recipe)
    warmup = share(rate.warmup, "schedule.warmup") * (
        recipe.batch_size / rate.base_batch_size if rate.warmup_rule == "linear" else 1
    )
    start = warmup_start(rate, peak)
    milestones, factors = _milestones(rate, share) if rate.decay == "step" else ((), ())
    form: Any = rate.warmup_form
    decay: Any = rate.decay
    return Plan(
        world_size=world_size,
        engine=engine,
        precision=recipe.precision,
        skip_nonfinite=recipe.skip_nonfinite,
        max_overflows=recipe.max_overflows,
        min_loss_scale=recipe.min_loss_scale,
        channels_last=recipe.channels_last,
        batch_size=recipe.batch_size,
        split=split,
        phases=phases,
        ladder=ladder,
        absa_every=_examples(recipe.absa.every, "absa.every", recipe, dataset, total),
        absa_adversarial_until=_schedule_examples(
            recipe.absa.adversarial_until, "absa.adversarial_until", recipe, dataset, total
        ),
        bn_batch_size=ghost,
        ghost_batches_per_step=recipe.batch_size // ghost,
        train_examples=dataset.train_examples,
        total_examples=total,
        total_steps=math.ceil(steps_before(phases, total)),
        warmup_steps=steps_before(phases, warmup * total),
        base_lr=rate.base_lr,
        base_batch_size=rate.base_batch_size,
        rule=rate.rule,
        regime_factor=regime_factor(rate, recipe.batch_size),
        learning_rate=LearningRate(peak, start, warmup, form, decay, milestones, factors, rate.power),
        clip_norm=recipe.optimizer.clip_norm,
        zero_stage=recipe.zero_stage_under(engine),
        statistics=statistics,
        memory=memory_estimate(
            recipe,
            statistics,
            max(phase.split.micro_batch_size for phase in phases + ladder),
            world_size,
            engine,
        ),
        log_every=_examples(recipe.log_every, "log_every", recipe, dataset, total),
        evaluate_every=_examples(recipe.evaluate_every, "evaluate_every", recipe, dataset, total),
        checkpoint_every=_examples(recipe.checkpoint.every, "checkpoint.every", recipe, dataset, total),
        noise_every=_examples(recipe.measure.noise_scale, "measure.noise_scale", recipe, dataset, total),
        noise_layers=recipe.measure.layers,
        notes=tuple(
            [
                *_notes(recipe, warmup, milestones, len(phases) - 1 < len(rate.batch_growth)),
                *statistics.notes(),
            ]
        ),
    )


def _milestones(
    rate: ScheduleConfig, share: Callable[[str, str], float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Where the rate falls, in order, and to which share of itself."""
    points = [Milestone.parse(text, "schedule.milestones") for text in rate.milestones]
    falls = sorted(
        (share(point.at, "schedule.milestones"), rate.factor if point.factor is None else point.factor)
        for point in points
    )
    return tuple(at for at, _ in falls), tuple(factor for _, factor in falls)


def _ghost_size(recipe: Recipe, statistics: ModelStatistics) -> int:
    """Images over which a batch-norm layer takes its statistics; 1 without such layers."""
    if not statistics.batch_norm_layers:
        return 1
    return recipe.batch_size if recipe.model.batch_norm == "sync" else recipe.bn_batch_size


def _phases(
    recipe: Recipe, dataset: DatasetInfo, total: int, world_size: int, ghost: int
) -> tuple[Phase, ...]:
    """Raises RecipeError if the batch of any phase cannot be cut."""
    name = "schedule.batch_growth"
    points = [BatchGrowth.parse(text, name) for text in recipe.schedule.batch_growth]
    growth = [(_schedule_examples(point.at, name, recipe, dataset, total), point.factor) for point in points]
    starts = [(start, size) for start, size in phase_starts(recipe.batch_size, growth) if start < total]
    micro, max_micro = recipe.micro_batch_size, recipe.max_micro_batch_size
    return tuple(
        Phase(
            start,
            size,
            split_batch(
                size, world_size, ghost, micro=micro, max_micro=max_micro, unit=recipe.loss_batch_size
            ),
        )
        for start, size in starts
    )


def _ladder(recipe: Recipe, world_size: int, ghost: int) -> tuple[Phase, ...]:
    """The batch sizes that ABSA may use; the rate grows with them. Raises RecipeError if one cannot be cut."""
    most, sizes = recipe.absa.max_batch_size, [recipe.batch_size]
    if not most:
        return ()
    while sizes[-1] < most:
        sizes.append(min(2 * sizes[-1], most))
    micro, max_micro = recipe.micro_batch_size, recipe.max_micro_batch_size
    unit = recipe.loss_batch_size
    splits = [
        (size, split_batch(size, world_size, ghost, micro=micro, max_micro=max_micro, unit=unit))
        for size in sizes
    ]
    return tuple(Phase(0, size, split, size / recipe.batch_size) for size, split in splits)


def _check_combinations(recipe: Recipe, engine: str) -> None:
    """What each key allows alone but not together."""
    if (recipe.model.library == "timm") == (recipe.data.name in ("shapes", "coco")):
        remedy = (
            "classifiers (model.library=timm) take labelled images, Mask R-CNN (torchvision, "
            "detectron2) takes shapes or coco"
        )
        raise RecipeError(f"model.library={recipe.model.library} with data.name={recipe.data.name}: {remedy}")
    if recipe.optimizer.nesterov and not recipe.optimizer.momentum:
        raise RecipeError("optimizer.nesterov=true needs optimizer.momentum above 0")
    if recipe.schedule.base_momentum is not None and recipe.optimizer.name == "lamb":
        raise RecipeError(
            "schedule.base_momentum is for SGD and LARS: LAMB has no momentum, and its rate is not scaled "
            "by one"
        )
    if recipe.schedule.warmup_start_lr is not None and recipe.schedule.warmup_start_share is not None:
        raise RecipeError(
            "schedule.warmup_start_lr and schedule.warmup_start_share both say where the warm-up starts: "
            "set one of the two"
        )
    if recipe.schedule.rule != "table" and recipe.schedule.table:
        raise RecipeError(
            f"schedule.table is read with schedule.rule=table only, and the rule is {recipe.schedule.rule}"
        )
    warmup, factor = (
        Duration.parse(recipe.schedule.warmup, "schedule.warmup"),
        regime_factor(recipe.schedule, recipe.batch_size),
    )
    if recipe.schedule.warmup_rule == "linear" and factor > 1 and warmup.unit == "ep" and warmup.value:
        raise RecipeError(
            "schedule.regime_adaptation=true and schedule.warmup_rule=linear both lengthen the warm-up with "
            "the batch: set one of the two "
            "(regime adaptation goes with schedule.warmup_rule=none)"
        )
    check_engine(recipe, engine)
    _check_techniques(recipe, engine)
    if (
        recipe.micro_batch_size
        and recipe.max_micro_batch_size
        and recipe.micro_batch_size > recipe.max_micro_batch_size
    ):
        raise RecipeError(
            f"micro_batch_size={recipe.micro_batch_size} is above "
            f"max_micro_batch_size={recipe.max_micro_batch_size}: set one of the two"
        )
    for name, text in {
        "log_every": recipe.log_every,
        "evaluate_every": recipe.evaluate_every,
        "checkpoint.every": recipe.checkpoint.every,
        "absa.every": recipe.absa.every,
    }.items():
        if not Duration.parse(text, name).value:
            raise RecipeError(f"{name}={text}: must be longer than nothing, such as 1ep")
    if not Duration.parse(recipe.duration).value or recipe.duration.endswith("dur"):
        raise RecipeError(
            f"duration={recipe.duration}: a run lasts a number of epochs (90ep) or steps (500it)"
        )


def _check_techniques(recipe: Recipe, engine: str) -> None:
    absa, stage = recipe.absa.max_batch_size, recipe.zero_stage_under(engine)
    if absa and absa <= recipe.batch_size:
        raise RecipeError(
            f"absa.max_batch_size={absa}: must be above batch_size={recipe.batch_size}; 0 switches ABSA off"
        )
    if absa and recipe.schedule.batch_growth:
        raise RecipeError(
            "absa.max_batch_size and schedule.batch_growth both say how the batch grows: set one of the two"
        )
    if recipe.model.library != "timm":
        _check_classifiers_only(recipe)
    if stage == 3 and (absa or recipe.ema.decay):
        name = f"absa.max_batch_size={absa}" if absa else f"ema.decay={recipe.ema.decay}"
        raise RecipeError(
            f"{name} needs whole weights on every rank: use {engine}.zero_stage=0, 1 or 2, not 3"
        )


def _check_measured(
    recipe: Recipe, phases: tuple[Phase, ...], world_size: int, ghost: int, engine: str
) -> None:
    """The gradient noise shows between the gradients of two batch sizes; the smaller must be a batch that
    could stand alone.
    """
    zero_stage = recipe.zero_stage_under(engine)
    if recipe.measure.distance and zero_stage == 3:
        raise RecipeError(
            "measure.distance=true needs whole weights on every rank: deepspeed.zero_stage below 3"
        )
    if not Duration.parse(recipe.measure.noise_scale).value:
        if recipe.measure.layers:
            raise RecipeError(
                "measure.layers=true goes with the noise scale: set measure.noise_scale, such as 50it"
            )
        return
    name = f"measure.noise_scale={recipe.measure.noise_scale}"
    if any(phase.split.ranks_per_ghost > 1 for phase in phases):
        raise RecipeError(
            f"{name}: a rank's gradient is not its own while a ghost batch spans ranks; micro-batches of "
            f"{ghost} would do"
        )
    if engine == "colossalai" and zero_stage and recipe.optimizer.clip_norm:
        raise RecipeError(
            f"{name}: under colossalai at ZeRO stage {zero_stage} a gradient is seen after clipping only; "
            "set stage 0"
        )
    if any(phase.split.accumulation * world_size == 1 for phase in phases):
        if zero_stage == 3:
            raise RecipeError(
                f"{name} on one rank at ZeRO stage 3 needs more than one micro-batch a step: set "
                "max_micro_batch_size"
            )
        if recipe.batch_size == ghost:
            raise RecipeError(
                f"{name}: one ghost batch on one rank cannot be split; set bn_batch_size below {ghost}"
            )
        if recipe.batch_size == math.lcm(ghost, recipe.loss_batch_size):
            raise RecipeError(
                f"{name}: on one rank a batch of {recipe.batch_size} cannot be split into whole ghost "
                f"batches (bn_batch_size={ghost}) and "
                f"whole losses (loss_batch_size={recipe.loss_batch_size}); set both to half of it or less"
            )


def _check_classifiers_only(recipe: Recipe) -> None:
    """Raises RecipeError for what has no meaning, or is not held by a test, for detection."""
    loss = recipe.loss
    switched_on = {
        "loss.label_smoothing": loss.label_smoothing,
        "loss.mixup": loss.mixup,
        "loss.multiplicative_noise": loss.multiplicative_noise,
        "absa.max_batch_size": recipe.absa.max_batch_size,
        # Images of a detection step are padded to one size, in steps of the batch that the run starts with.
        "schedule.batch_growth": recipe.schedule.batch_growth,
        "data.on_error": "" if recipe.data.on_error == "raise" else recipe.data.on_error,
        "data.augmentation": "" if recipe.data.augmentation in ("none", "flip") else recipe.data.augmentation,
    }
    for name, value in switched_on.items():
        if value:
            raise RecipeError(
                f"{name}={value} is for classifiers (model.library=timm), and this is "
                f"model.library={recipe.model.library}"
            )


def _total_examples(recipe: Recipe, dataset: DatasetInfo) -> int:
    return math.ceil(_schedule_examples(recipe.duration, "duration", recipe, dataset, 0))


def _schedule_examples(text: str, name: str, recipe: Recipe, dataset: DatasetInfo, total: int) -> float:
    """Of a length that regime adaptation stretches: lengths in epochs. Steps stay as many, a share of the run
    the same share.
    """
    factor = regime_factor(recipe.schedule, recipe.batch_size) if text.endswith("ep") else 1
    return factor * _examples(text, name, recipe, dataset, total)


def _examples(text: str, name: str, recipe: Recipe, dataset: DatasetInfo, total: int) -> float:
    length = Duration.parse(text, name)
    return length.examples(
        train_examples=dataset.train_examples, batch_size=recipe.batch_size, total_examples=total
    )


def _notes(recipe: Recipe, warmup: float, milestones: tuple[float, ...], growth_unseen: bool) -> list[str]:
    notes = []
    if warmup > 1:
        notes.append("the warm-up is longer than the run: the peak learning rate is never reached")
    start, peak = recipe.schedule.warmup_start_lr, peak_lr(recipe)
    if warmup and start is not None and start > peak:
        notes.append(
            f"the warm-up starts at {start:g}, above the peak learning rate of {peak:g}: "
            "schedule.warmup_start_lr stays where it is as the "
            "batch changes, schedule.warmup_start_share follows it"
        )
    if any(milestone >= 1 for milestone in milestones):
        notes.append("some milestones lie beyond the end of the run")
    if growth_unseen:
        notes.append(
            "some points of schedule.batch_growth lie beyond the end of the run, or several in one step"
        )
    if (
        recipe.optimizer.name != "sgd"
        and recipe.schedule.rule == "linear"
        and recipe.batch_size != recipe.schedule.base_batch_size
    ):
        notes.append(
            f"the linear rule is SGD's: {recipe.optimizer.name.upper()} has been reproduced best with "
            "schedule.rule=sqrt and "
            "schedule.warmup_rule=linear"
        )
    unread = _unread(recipe)
    if unread:
        notes.append(
            f"model.library=detectron2 does not read {unread}: its config says how images are resized and "
            "flipped"
        )
    kept = _kept_random(recipe)
    if kept:
        notes.append(
            f"{kept} of the backbone keep their random initial values: model.weights is empty, give it a "
            "file of trained weights"
        )
    return notes


def _unread(recipe: Recipe) -> str:
    """The keys that are set for an augmentation of ours where detectron2's mapper makes its own."""
    defaults = DataConfig()
    names = ("image_size", "short_edges", "max_size", "augmentation")
    changed = [f"data.{name}" for name in names if getattr(recipe.data, name) != getattr(defaults, name)]
    return ", ".join(changed) if recipe.model.library == "detectron2" else ""


def _kept_random(recipe: Recipe) -> str:
    """What of a detector's backbone is neither loaded nor trained."""
    if recipe.model.library == "timm" or recipe.model.weights:
        return ""
    layers = ", ".join(recipe.model.args.get("frozen", ()))
    kept = [f"the frozen layers {layers}"] if layers else []
    kept += ["the frozen batch-norm statistics"] if recipe.model.batch_norm == "frozen" else []
    return " and ".join(kept)


def print_plans(plans: list[Plan], refusals: dict[int, str]) -> None:
    """What all world sizes share, then a table of what differs, then what was refused and why."""
    console = Console(soft_wrap=True, highlight=False)
    rows = [plan.rows() for plan in plans]
    shared = {
        name: value
        for name, value in (rows[0] if rows else {}).items()
        if all(row[name] == value for row in rows)
    }
    for name, value in shared.items():
        console.print(f"{name:<28} {value}", markup=False)
    if len(rows) > 1:
        table = Table(*[name for name in rows[0] if name not in shared], box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(*[value for name, value in row.items() if name not in shared])
        Console(width=max(console.width, 100)).print(table)
    for note in dict.fromkeys(note for plan in plans for note in plan.notes):
        console.print(f"note: {note}", markup=False)
    for world_size, reason in refusals.items():
        console.print(f"refused on {world_size} ranks: {reason}", markup=False)
