"""schedule.*: the learning rate, the batch size and the image size over the run."""

from dataclasses import dataclass

from lbtrain.recipe.durations import BatchGrowth, Duration, ImageSize, Milestone, TableEntry
from lbtrain.recipe.sections.fields import Unassignable, key, length


@dataclass
class ScheduleConfig(Unassignable):
    base_lr: float = key(
        0.1,
        "The learning rate at base_batch_size. The scaling rule derives the peak learning rate from the two.",
        at_least=0,
        needs="schedule.rule=linear|sqrt|none",
    )
    base_batch_size: int = key(256, "The global batch size at which base_lr was found.", at_least=1)
    base_momentum: float | None = key(
        None,
        "The momentum at which base_lr was found, if it differs from optimizer.momentum. The rule then "
        "scales lr / (1 - momentum) (Smith et al. 2018). null: the same momentum.",
        at_least=0,
        below=1,
        needs=("schedule.rule=linear|sqrt|none", "optimizer.name=sgd|lars"),
    )
    rule: str = key(
        "linear",
        "How the peak learning rate follows the batch size: in proportion (Goyal et al. 2017), with its "
        "square root (Krizhevsky 2014), not at all, or by schedule.table.",
        choices=("linear", "sqrt", "none", "table"),
    )
    table: list[TableEntry] = key(
        [], "Learning rates by batch size, such as 512:4,8192:16.", needs="schedule.rule=table"
    )
    regime_adaptation: bool = key(
        False,
        "Multiply the durations in epochs of run and schedule by ceil(batch_size / base_batch_size), for as "
        "many steps as with the small batch (Hoffer et al. 2017). What is done every so many epochs stays.",
    )
    warmup: Duration = length("5ep", "Length of the warm-up. 0ep: no warm-up.")
    warmup_start_lr: float | None = key(
        None,
        "The learning rate at which the warm-up starts. null: base_lr (Goyal et al. 2017, section 2.2).",
        at_least=0,
        needs="schedule.warmup",
    )
    warmup_start_share: float | None = key(
        None,
        "The learning rate at which the warm-up starts, as a share of the peak.",
        at_least=0,
        at_most=1,
        needs="schedule.warmup",
    )
    warmup_rule: str = key(
        "none",
        "How the length of the warm-up follows the batch size: linear multiplies it by batch_size / "
        "base_batch_size.",
        choices=("none", "linear"),
        needs="schedule.warmup",
    )
    warmup_form: str = key(
        "gradual",
        "Shape of the warm-up: a ramp to the peak, or the start rate throughout.",
        choices=("gradual", "constant"),
        needs="schedule.warmup",
    )
    decay: str = key(
        "step",
        "Shape of the learning rate after the warm-up.",
        choices=("step", "poly", "cosine", "none"),
    )
    milestones: list[Milestone] = key(
        [Milestone.parse(f"{epoch}ep") for epoch in (30, 60, 80)],
        "Where a step decay multiplies the learning rate by schedule.factor, or by a factor of the "
        "milestone's own (60ep:0.2).",
        needs="schedule.decay=step",
    )
    factor: float = key(0.1, "The factor of a step decay.", above=0, at_most=1, needs="schedule.decay=step")
    batch_growth: list[BatchGrowth] = key(
        [],
        "Where the batch size is multiplied, and by what, such as 60ep:5 (Smith et al. 2018). The learning "
        "rate stays the same.",
    )
    image_sizes: list[ImageSize] = key(
        [],
        "Where training images change to how many pixels a side, such as 0ep:128,10ep:224 (progressive "
        "resizing), and to which batch size with them, if it changes: 0ep:128,10ep:224:1024. The learning "
        "rate follows the batch by schedule.rule. Evaluations keep data.image_size.",
    )
    power: float = key(
        2.0,
        "The power of a polynomial decay (1 - progress) ** power (You et al. 2017).",
        above=0,
        needs="schedule.decay=poly",
    )
    end_lr: float = key(
        0.0,
        "The learning rate at which a poly or cosine decay ends.",
        at_least=0,
        needs="schedule.decay=poly|cosine",
    )
    decay_until: Duration = length(
        "1dur",
        "Where a poly or cosine decay ends. The rate stays at end_lr from there on.",
        needs="schedule.decay=poly|cosine",
    )
    decay_from: str = key(
        "warmup_end",
        "Where a poly or cosine decay starts. start: at the start of the run, so that the rate drops at the "
        "end of the warm-up (You et al. 2017).",
        choices=("warmup_end", "start"),
        needs=("schedule.decay=poly|cosine", "schedule.warmup"),
    )
