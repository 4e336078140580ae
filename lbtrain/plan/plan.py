"""Recipe + world size -> Plan: every number that follows from the two, computed before a process is launched.

What cannot be planned (a batch that does not divide, a batch-norm batch that would be split) is rejected,
with the nearest sizes that can.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from lbtrain.data import check_pictures, dataset_info
from lbtrain.errors import RecipeError
from lbtrain.plan.batching import BatchSplit, Phase, steps_before
from lbtrain.plan.phases import make_phases
from lbtrain.plan.precision import resolve_precision
from lbtrain.plan.scaling import ema_decay, learning_rate, regime_factor
from lbtrain.plan.schedules import LearningRate, crossed
from lbtrain.plan.statistics import ModelStatistics, memory_estimate, model_statistics
from lbtrain.plan.validate import check_image_sizes, check_recipe, check_top5, check_world_size
from lbtrain.plan.validate_split import check_compile, check_noise_scale
from lbtrain.recipe import Recipe
from lbtrain.recipe.durations import Duration


@dataclass(frozen=True)
class Plan:
    """What a run follows: its recipe, and the numbers that follow from it on `world_size` ranks. Learning
    rates are per optimizer step; positions and lengths in the run are in examples; memory is bytes per rank.
    """

    recipe: Recipe
    world_size: int
    engine: str
    phases: tuple[Phase, ...]
    """Every batch size of the run, in order."""
    bn_batch_size: int
    """Images of a batch-norm batch: 1 without batch norm, the whole batch where it is synchronised."""
    image_size: int
    """Pixels a side of the images of evaluations; of training images where their phase names no other."""
    train_examples: int
    total_examples: int
    learning_rate: LearningRate
    log_every: float
    evaluate_every: float
    checkpoint_every: float
    statistics: ModelStatistics
    memory: dict[str, int]
    precision_reason: str = ""
    """Why precision=auto became the precision of `recipe`."""

    @property
    def split(self) -> BatchSplit:
        """The split of the batch that the run starts with."""
        return self.phases[0].split

    @property
    def ghost_batches_per_step(self) -> int:
        return self.recipe.batch_size // self.bn_batch_size

    @property
    def precision(self) -> str:
        return self.recipe.precision

    @property
    def zero_stage(self) -> int:
        return self.recipe.zero_stage_under(self.engine)

    @property
    def regime_factor(self) -> int:
        return regime_factor(self.recipe.schedule, self.recipe.batch_size)

    @property
    def steps_per_epoch(self) -> float:
        return self.train_examples / self.recipe.batch_size

    @property
    def total_steps(self) -> int:
        return math.ceil(steps_before(self.phases, self.total_examples))

    @property
    def warmup_steps(self) -> float:
        return steps_before(self.phases, self.learning_rate.warmup_length * self.total_examples)

    def lr(self, examples: int) -> float:
        """The learning rate of the step that starts after `examples` examples."""
        return self.learning_rate(min(1.0, examples / self.total_examples))

    def ema_decay(self, phase: Phase) -> float:
        """Decay of the average of the weights per step of this phase."""
        return ema_decay(self.recipe, phase.batch_size)

    def phase(self, examples: int) -> Phase:
        """The phase of the step that starts after `examples` examples."""
        return [phase for phase in self.phases if phase.begins <= examples][-1]

    def due(self, before: int, after: int, every: float) -> bool:
        """Whether a step from `before` to `after` completes another `every` examples, or ends the run."""
        return after >= self.total_examples or crossed(before, after, every)

    def examples(self, duration: Duration) -> float:
        return _examples(self.recipe, self.train_examples, duration, self.total_examples)

    def schedule_examples(self, duration: Duration) -> float:
        """The examples of a duration of the schedule, which regime adaptation stretches."""
        return _schedule_examples(self.recipe, self.train_examples, duration, self.total_examples)

    @cached_property
    def recipe_yaml(self) -> str:
        """The recipe as every checkpoint keeps it. Made once: it takes a thousand objects in cycles."""
        return self.recipe.to_yaml()

    def to_json(self) -> str:
        """Every number, without the recipe, which is a file of its own."""
        fields = {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}
        derived = {
            name: getattr(self, name) for name, kind in vars(Plan).items() if isinstance(kind, property)
        }
        numbers = fields | derived | {"recipe": None, "batch_size": self.recipe.batch_size}
        del numbers["recipe"]
        return json.dumps(numbers, default=vars, indent=1)


def make_plan(
    recipe: Recipe, world_size: int, *, engine: str = "ddp", statistics: ModelStatistics | None = None
) -> Plan:
    """Raises RecipeError for what cannot be planned. `statistics` of the model, if they are known, save
    counting it again for another world size.
    """
    recipe, reason = resolve_precision(recipe, engine)
    check_recipe(recipe, engine)
    check_world_size(recipe, world_size)
    check_pictures(recipe.data)
    dataset = dataset_info(recipe.data)
    check_top5(recipe, dataset.num_classes)
    statistics = statistics or model_statistics(recipe, dataset)
    total = math.ceil(_schedule_examples(recipe, dataset.train_examples, recipe.duration, 0))
    ghost = _ghost_size(recipe, statistics)
    length = partial(_examples, recipe, dataset.train_examples, total=total)
    scheduled = partial(_schedule_examples, recipe, dataset.train_examples, total=total)
    check_image_sizes(recipe, scheduled)
    rate = learning_rate(recipe, scheduled, total)
    phases = make_phases(recipe, world_size, ghost, total, scheduled)
    check_noise_scale(recipe, engine, phases, world_size, ghost)
    check_compile(recipe, engine, phases, world_size, ghost)
    return Plan(
        recipe=recipe,
        world_size=world_size,
        engine=engine,
        phases=phases,
        bn_batch_size=ghost,
        image_size=dataset.image_size,
        train_examples=dataset.train_examples,
        total_examples=total,
        learning_rate=rate,
        log_every=length(recipe.log_every),
        evaluate_every=length(recipe.evaluate_every),
        checkpoint_every=length(recipe.checkpoint.every),
        statistics=statistics,
        memory=max(
            (
                memory_estimate(recipe, statistics, images, world_size, engine, size)
                for images, size in _held_at_once(recipe, phases)
            ),
            key=lambda parts: sum(parts.values()),
        ),
        precision_reason=reason,
    )


def _held_at_once(recipe: Recipe, phases: Sequence[Phase]) -> Iterator[tuple[int, int | None]]:
    """Images whose activations a rank holds at once, with their size."""
    for phase in phases:
        yield phase.split.micro_batch_size, phase.image_size
    if recipe.absa.max_batch_size:  # a product with the Hessian keeps the backward pass as well
        yield 2 * phases[0].split.micro_batch_size, None


def _ghost_size(recipe: Recipe, statistics: ModelStatistics) -> int:
    if not statistics.batch_norm_layers:
        return 1
    key = "batch_size" if recipe.model.batch_norm == "sync" else "bn_batch_size"
    size: int = getattr(recipe, key)
    if size * statistics.batch_norm_positions == 1:
        raise RecipeError(
            f"{key}=1: a batch-norm layer of this model sees one position of each image, and a single value "
            f"has no deviation. Use {key}=2 or more."
        )
    return size


def _schedule_examples(recipe: Recipe, train_examples: int, duration: Duration, total: int) -> float:
    """Regime adaptation stretches lengths in epochs. Steps stay as many, a share of the run the same
    share.
    """
    factor = regime_factor(recipe.schedule, recipe.batch_size) if duration.unit == "ep" else 1
    return factor * _examples(recipe, train_examples, duration, total)


def _examples(recipe: Recipe, train_examples: int, duration: Duration, total: int) -> float:
    return duration.examples(
        train_examples=train_examples, batch_size=recipe.batch_size, total_examples=total
    )
