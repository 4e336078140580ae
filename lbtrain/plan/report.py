"""A plan for people: its rows, the table over several world sizes, and notes on what a reader may not
expect.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table

from lbtrain.console import Console
from lbtrain.plan.phases import mixes_images
from lbtrain.plan.plan import Plan
from lbtrain.plan.precision import gpu_arithmetic
from lbtrain.plan.scaling import ema_decay, scaled_optimizer
from lbtrain.recipe import Recipe, written

GIB = 2**30

_OF_BATCH_NORM = ("bn_batch_size", "bn_momentum", "bn_update", "model.batch_norm")
"""The first is also the size of the groups in which images are mixed or repeated."""


def rows(plan: Plan) -> dict[str, str]:
    """What a person checks before a run, by name."""
    recipe, rate, split, statistics = plan.recipe, plan.learning_rate, plan.split, plan.statistics
    schedule, has_norm = recipe.schedule, statistics.batch_norm_layers > 0
    spread = f" over {split.ranks_per_ghost} ranks" if split.ranks_per_ghost > 1 else ""
    reference = f"{schedule.base_lr:g} at {schedule.base_batch_size:,}, {schedule.rule} rule"
    ramp = f"{rate.warmup_form} from {rate.warmup_start:.6g}, {plan.warmup_steps:,.1f} steps"
    sharded = f", ZeRO stage {plan.zero_stage}" if plan.engine in ("deepspeed", "colossalai") else ""
    clip = recipe.optimizer.clip_norm
    limits = f"{recipe.max_overflows} overflows in a row, or at a scale below {recipe.min_loss_scale:g}"
    fp16 = f"; ends after {limits}" if recipe.precision == "fp16" else ""
    reason = f" ({plan.precision_reason})" if plan.precision_reason else ""
    return {
        "world size": f"{plan.world_size}",
        "batch size (global)": f"{recipe.batch_size:,}",
        "micro-batch x accumulation": f"{split.micro_batch_size} x {split.accumulation}",
        "batch changes": _batch_changes(plan) or "none",
        "image size": _image_sizes(plan),
        "batch-norm batch": f"{plan.bn_batch_size}{spread}" if has_norm else "no batch norm",
        "ghost batches per step": f"{plan.ghost_batches_per_step}" if has_norm else "-",
        "reference learning rate": "schedule.table" if schedule.rule == "table" else reference,
        "regime adaptation": f"epochs x {plan.regime_factor}" if plan.regime_factor > 1 else "none",
        "peak learning rate": f"{rate.peak:.6g}",
        "peak rate per example": f"{rate.peak / recipe.batch_size:.6g}",
        "warm-up": ramp if plan.warmup_steps else "none",
        "decay": rate.decay + (_falls(plan) if rate.decay == "step" else _end(plan)),
        "steps per epoch": f"{plan.steps_per_epoch:,.2f}",
        "total steps": ("at most " if recipe.absa.max_batch_size else "") + f"{plan.total_steps:,}",
        "parameters": f"{statistics.parameters:,}",
        "without weight decay": f"{statistics.not_decayed:,}",
        "without trust ratio": f"{statistics.without_trust_ratio:,}",
        "optimizer": _optimizer(plan),
        "average of the weights": _average(plan),
        "ends early": f"at {', '.join(map(str, recipe.stop_at))}" if recipe.stop_at else "no",
        "gradient clipping": f"norm {clip:g}" if clip else "none",
        "precision": recipe.precision + _order_in_memory(plan) + fp16 + reason,
        "arithmetic of a GPU": gpu_arithmetic(recipe),
        "torch.compile": "forward and backward pass; batch norm by elementary operations"
        if recipe.compile
        else "no",
        "engine": plan.engine + sharded,
        "memory per rank (estimate)": f"{sum(plan.memory.values()) / GIB:.3g} GiB",
    }


def _order_in_memory(plan: Plan) -> str:
    """ZeRO keeps the weights in buffers of its own, in the order in which they come."""
    if not plan.recipe.channels_last:
        return ""
    return (
        f", channels_last without effect at ZeRO stage {plan.zero_stage}"
        if plan.zero_stage
        else ", channels last"
    )


def _optimizer(plan: Plan) -> str:
    config = scaled_optimizer(plan.recipe)
    moments = f"beta1 {config.beta1:.6g}, beta2 {config.beta2:.6g}, epsilon {config.eps:.3g}"
    if config.name == "muon":
        rest = plan.statistics.parameters - plan.statistics.muon
        return f"muon for {plan.statistics.muon:,} parameters, adamw for {rest:,} ({moments})"
    scaled = " by the square-root rule" if config != plan.recipe.optimizer else ""
    if config.name in ("adamw", "nadamw"):
        return f"{config.name}, {moments}{scaled}"
    table = ", from optimizer.momentum_table" if config.momentum_table else ""
    return config.name + (f", momentum {config.momentum:g}{table}" if table else "")


def _batch_changes(plan: Plan) -> str:
    changes = [new for old, new in itertools.pairwise(plan.phases) if new.batch_size != old.batch_size]
    follows = any(phase.lr_factor != 1 for phase in plan.phases)
    return "; ".join(
        f"to {phase.batch_size:,} ({phase.split.micro_batch_size} x {phase.split.accumulation}) "
        + (
            "as the loss flattens"
            if phase.start is None
            else f"at epoch {phase.start / plan.train_examples:.4g}"
        )
        + (f", peak rate {phase.lr_factor * plan.learning_rate.peak:.6g}" if follows else "")
        for phase in changes
    )


def _image_sizes(plan: Plan) -> str:
    """Pixels a side of training images, phase by phase, and of evaluations."""
    if plan.recipe.model.library != "timm":
        return "by data.short_edges" + (" and data.max_size" if not plan.recipe.data.square else ", square")
    sizes = [phase.image_size or plan.image_size for phase in plan.phases]
    changes = [
        f", {size} from epoch {phase.begins / plan.train_examples:.4g}"
        for phase, old, size in zip(plan.phases[1:], sizes, sizes[1:], strict=False)
        if size != old
    ]
    scored = f"; {plan.image_size} in evaluations" if set(sizes) != {plan.image_size} else ""
    return f"{sizes[0]}{''.join(changes)}{scored}"


def _falls(plan: Plan) -> str:
    rate = plan.learning_rate
    if not rate.milestones:
        return ", never"
    factors = rate.factors[:1] if len(set(rate.factors)) == 1 else rate.factors
    epochs = [f"{share * plan.total_examples / plan.train_examples:.4g}" for share in rate.milestones]
    return f" by {', '.join(f'{factor:g}' for factor in factors)} at epochs {', '.join(epochs)}"


def _end(plan: Plan) -> str:
    rate = plan.learning_rate
    epoch = rate.decay_end * plan.total_examples / plan.train_examples
    reaches = "reaches" if rate.decay_end < 1 else "would reach"
    until = f", which it {reaches} at epoch {epoch:.4g}" if rate.decay_end != 1 else ""
    return f" to {_by_batch(plan, rate.end, rate.decay_end)}{until}" if rate.end or until else ""


def _by_batch(plan: Plan, lr: float, position: float) -> str:
    """A rate of the schedule as it is trained from that share of the run on: a phase may have another."""
    first = plan.phases.index(plan.phase(int(min(1.0, position) * plan.total_examples)))
    rates = dict.fromkeys(f"{phase.lr_factor * lr:.6g}" for phase in plan.phases[first:])
    return " or ".join(rates) + (", depending on the batch" if len(rates) > 1 else "")


def _average(plan: Plan) -> str:
    config = plan.recipe.ema
    if not config.decay:
        return "none"
    decays = [ema_decay(plan.recipe, phase.batch_size) for phase in plan.phases]
    own = "decay " + ", ".join(f"{decay:.8g}" for decay in dict.fromkeys(decays))
    rule = f": {config.decay:g} at {config.base_batch_size:,}, to the power of the batch's factor"
    return own + (rule if config.base_batch_size else "")


def notes(plan: Plan) -> list[str]:
    """What is allowed, but probably not meant."""
    recipe, rate = plan.recipe, plan.learning_rate
    schedule, start = recipe.schedule, recipe.schedule.warmup_start_lr
    grown = sum(phase.start is not None for phase in plan.phases) - 1
    changes = [point.at for point in schedule.batch_growth]
    changes += [point.at for point in schedule.image_sizes if point.at]
    last = plan.phases[-1].image_size or plan.image_size
    optimizer = recipe.optimizer.name
    linear = schedule.rule == "linear" and recipe.batch_size != schedule.base_batch_size
    random = _random_parts(recipe)
    frozen = recipe.model.batch_norm == "frozen"
    group, micro = recipe.bn_batch_size, min(phase.split.micro_batch_size for phase in plan.phases)
    unused = "" if plan.statistics.batch_norm_layers or frozen else _batch_norm_settings(recipe)
    base = _base_without_effect(recipe)
    found = {
        f"{unused} has no effect: the model has no batch norm.": unused,
        f"Mixup and CutMix pair images in groups of bn_batch_size={group}: a rank loads {group / micro:.3g} "
        f"times the images that it trains on, {micro} at a time.": mixes_images(recipe) and group > micro,
        f"{base} has no effect with schedule.rule={schedule.rule}.": base,
        "The peak learning rate is 0 (schedule.base_lr): nothing is trained.": not rate.peak,
        "The warm-up is as long as the run, or longer: the peak learning rate is never reached.": (
            rate.warmup_length >= 1
        ),
        f"The warm-up starts at {start or 0:g}, above the peak learning rate of {rate.peak:g}: "
        "schedule.warmup_start_lr does not follow the batch size, schedule.warmup_start_share does.": (
            rate.warmup_length and start is not None and start > rate.peak
        ),
        "The images of data.name=synthetic are not augmented.": (
            recipe.data.name == "synthetic"
            and (
                recipe.data.augmentation != "none"
                or recipe.data.auto_augment
                or recipe.data.color_jitter
                or recipe.data.random_erasing
            )
        ),
        f"The run ends before schedule.decay_until={schedule.decay_until}, at a learning rate of "
        f"{_by_batch(plan, rate(1), 1)}.": rate.decay_end > 1,
        "Some milestones lie within the warm-up: the rate falls by their factors at its end.": any(
            at < rate.warmup_length for at in rate.milestones
        ),
        "Some milestones lie beyond the end of the run.": any(at >= 1 for at in rate.milestones),
        "Some points of schedule.batch_growth or schedule.image_sizes lie beyond the end of the run, or "
        "several in one step.": grown < len(changes),
        f"Batch norm takes its running statistics from images of {last} pixels a side, and evaluations show "
        f"it {plan.image_size}: Touvron et al. 2019 fine-tune at the larger size.": (
            plan.statistics.batch_norm_layers and last != plan.image_size
        ),
        f"The linear rule is SGD's: {optimizer.upper()} has been reproduced best with schedule.rule=sqrt and "
        "schedule.warmup_rule=linear.": optimizer in ("lars", "lamb") and linear,
        f"{random} of the backbone keep their random initial values: model.weights is empty. Set it to a "
        "file of trained weights.": random,
    } | {f"{every} is longer than the run: nothing is measured.": True for every in _never_measured(plan)}
    return [text for text, holds in found.items() if holds] + list(plan.statistics.notes())


def _batch_norm_settings(recipe: Recipe) -> str:
    """The keys that only batch norm uses and that are set to another value than the default."""
    default, groups = Recipe(), mixes_images(recipe) or recipe.data.repeats > 1
    return " ".join(
        f"{key}={written(recipe, key)}"
        for key in _OF_BATCH_NORM[1 if groups else 0 :]
        if written(recipe, key) != written(default, key)
    )


def _base_without_effect(recipe: Recipe) -> str:
    """schedule.base_batch_size where it is set to another batch than the run's and nothing follows it."""
    rate, key = recipe.schedule, "schedule.base_batch_size"
    followed = rate.rule in ("linear", "sqrt") or rate.regime_adaptation or rate.warmup_rule == "linear"
    if followed or rate.base_batch_size in (recipe.batch_size, Recipe().schedule.base_batch_size):
        return ""
    return f"{key}={written(recipe, key)}"


def _never_measured(plan: Plan) -> list[str]:
    """What is to be measured less often than once in the run."""
    recipe = plan.recipe
    every = {"measure.noise_scale": recipe.measure.noise_scale}
    every |= {"absa.every": recipe.absa.every} if recipe.absa.max_batch_size else {}
    return [f"{key}={value}" for key, value in every.items() if plan.examples(value) > plan.total_examples]


def _random_parts(recipe: Recipe) -> str:
    """What of a detector's backbone is neither loaded nor trained."""
    if recipe.model.library == "timm" or recipe.model.weights:
        return ""
    layers = ", ".join(recipe.model.args.get("frozen", ()))
    parts = [f"The frozen layers {layers}"] if layers else []
    parts += ["the frozen batch-norm statistics"] if recipe.model.batch_norm == "frozen" else []
    return " and ".join(parts)


def print_plans(
    plans: Sequence[Plan], rejected: Mapping[int, str], data: Iterable[tuple[str, str]] = ()
) -> None:
    """What all world sizes share, with the index of the data, then a table of what differs, then the world
    sizes that are rejected and why.
    """
    console = Console(soft_wrap=True, highlight=False)
    each = [rows(plan) for plan in plans]
    first = each[0] if each else {}
    shared = {name: value for name, value in first.items() if all(row[name] == value for row in each)}
    for name, value in [*shared.items(), *data]:
        console.print(f"{name:<28} {value}", markup=False)
    if len(each) > 1:
        table = Table(*[name for name in first if name not in shared], box=box.SIMPLE_HEAD)
        for row in each:
            table.add_row(*[value for name, value in row.items() if name not in shared])
        Console(width=max(console.width, 100)).print(table)
    for note in dict.fromkeys(note for plan in plans for note in notes(plan)):
        console.print(f"note: {note}", markup=False)
    for world_size, reason in rejected.items():
        console.print(f"rejected on {world_size} ranks: {reason}", markup=False)
