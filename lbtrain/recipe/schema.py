"""The recipe: every value an experiment consists of, typed, with its meaning, its range and its default.

A recipe is data. `vary` gives a copy with differences, and `with_overrides` the same from the `key=value`
words of a command line. Both reject an unknown key, a wrong type and a value out of range, with a suggested
fix. What depends on how many GPUs there are is not here but in the plan.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import yaml

from lbtrain.errors import RecipeError
from lbtrain.recipe import tree
from lbtrain.recipe.active import inactive_keys
from lbtrain.recipe.durations import Duration
from lbtrain.recipe.expectation import Expectation
from lbtrain.recipe.findings import Finding
from lbtrain.recipe.sections import (
    AbsaConfig,
    AverageConfig,
    CheckpointConfig,
    ColossalAIConfig,
    DataConfig,
    DeepSpeedConfig,
    LogConfig,
    LossConfig,
    MeasureConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from lbtrain.recipe.sections.fields import DETECTION, Unassignable, key, length
from lbtrain.recipe.targets import Target
from lbtrain.recipe.values import dump_yaml, mapping_from_yaml

MAY_CHANGE_ON_RESUME = {
    "engine", "deepspeed.zero_stage", "deepspeed.config", "colossalai.zero_stage", "world_size",
    "micro_batch_size", "max_micro_batch_size", "validation_batch_size", "data.root", "data.workers",
    "channels_last", "compile", "run_dir", "fault_timeout", "skip_nonfinite", "resume", "log_every",
    "evaluate_every", "checkpoint.every", "checkpoint.keep", "data.on_error", "measure.noise_scale",
    "measure.layers", "measure.distance", "checkpoint.best", "log.trackers", "stop_at", "deterministic",
    "data.max_pixels", "data.validation_root", "data.train_files", "data.validation_files", "max_overflows",
    "min_loss_scale",
}  # fmt: skip
"""Keys that do not enter the mathematics, so that a run may continue with other values."""

SAME_SCORE = MAY_CHANGE_ON_RESUME - {
    "stop_at", "evaluate_every", "data.validation_root", "data.train_files", "data.validation_files",
}  # fmt: skip
"""Keys in which runs may differ whose scores stand beside each other: they train the same, and are scored on
the same images at the same places.
"""


@dataclass
class Recipe(Unassignable):
    """One experiment. Batch sizes are global unless their name says otherwise; durations carry their unit
    (5ep, 500it, 0.05dur).
    """

    batch_size: int = key(
        256,
        "Images per optimizer step, over all ranks and accumulation steps.",
        at_least=1,
    )
    bn_batch_size: int = key(
        32,
        "Images over which a batch-norm layer takes its statistics, independent of the number of ranks.",
        at_least=1,
        needs="model.batch_norm=ghost or loss.mixup or loss.cutmix or data.repeats>1",
    )
    loss_batch_size: int = key(
        1,
        "Images over which the losses of an R-CNN are normalised, independent of the number of ranks; 2 in "
        "Goyal et al. 2017.",
        at_least=1,
        needs=(DETECTION, "model.detector=mask_rcnn|faster_rcnn"),
    )
    bn_momentum: float = key(
        0.1,
        "Weight of new batch statistics in the running statistics, which thus average over about "
        "1 / bn_momentum updates.",
        above=0,
        at_most=1,
        needs="model.batch_norm=ghost|sync",
    )
    bn_update: str = key(
        "step",
        "How often the running statistics move by bn_momentum: once a step, or once a ghost batch (Hoffer et "
        "al. 2017, algorithm 1). All ghost batches of a step weigh alike.",
        choices=("step", "ghost_batch"),
        needs="model.batch_norm=ghost",
    )
    micro_batch_size: int = key(
        0,
        "Images per rank and forward pass. 0: the largest size that divides the batch and does not exceed "
        "max_micro_batch_size.",
        at_least=0,
    )
    max_micro_batch_size: int = key(
        0,
        "Upper bound of the images per rank and forward pass, for the sake of memory. 0: no bound.",
        at_least=0,
    )
    validation_batch_size: int = key(
        0,
        "Images per rank and forward pass of an evaluation. 0: as many as in training.",
        at_least=0,
    )
    duration: Duration = length("90ep", "Length of the run, in epochs (90ep) or steps (500it).")
    stop_at: list[Target] = key(
        [],
        "Qualities at which the run ends, once an evaluation reaches all of them: top1_accuracy>=75.9, or "
        "box_ap>=37.7,mask_ap>=33.9. Empty: the run ends after its duration.",
    )
    seed: int = key(0, "Seed of initial weights, sample order and augmentation.", at_least=0, below=2**31)
    model: ModelConfig = key(ModelConfig, "The network.")
    data: DataConfig = key(DataConfig, "The images.")
    optimizer: OptimizerConfig = key(OptimizerConfig, "The optimizer.")
    loss: LossConfig = key(LossConfig, "The loss.")
    absa: AbsaConfig = key(AbsaConfig, "A batch size that adapts to the curvature.")
    ema: AverageConfig = key(AverageConfig, "A moving average of the weights.")
    schedule: ScheduleConfig = key(ScheduleConfig, "The learning rate.")
    skip_nonfinite: int = key(
        0,
        "How many updates may be skipped because a gradient is NaN or infinite. One more ends the run with "
        "exit code 5.",
        at_least=0,
    )
    max_overflows: int = key(
        50,
        "How many updates in a row may be skipped in fp16 because scaled gradients overflow. That many end "
        "the run with exit code 5.",
        at_least=1,
        needs="precision=fp16",
    )
    min_loss_scale: float = key(
        1.0,
        "The run ends with exit code 5 when the loss scale of fp16 falls below this.",
        above=0,
        needs="precision=fp16",
    )
    precision: str = key(
        "fp32",
        "Precision of forward and backward pass. Weights stay in fp32. auto: bf16 with channels_last where "
        "the GPU or CPU computes bf16 natively, else fp32; the plan says which.",
        choices=("fp32", "bf16", "fp16", "auto"),
    )
    deterministic: bool = key(
        False,
        "On a GPU, use deterministic algorithms and full precision in fp32, so that the same run on the same "
        "kind of GPU is bit-identical. false: cudnn.benchmark and TF32, which are faster.",
    )
    channels_last: bool = key(
        False,
        "Use the channels-last memory format, in which GPUs compute convolutions in bf16 and fp16 fastest "
        "(ZeRO stage 0 only).",
    )
    compile: bool = key(
        False,
        "Compile the network with torch.compile. The run is the same up to rounding, and the first step "
        "takes minutes.",
    )
    engine: str = key(
        "auto",
        "The engine. auto: that of the launcher which started the script.",
        choices=("auto", "ddp", "deepspeed", "accelerate", "colossalai"),
    )
    deepspeed: DeepSpeedConfig = key(DeepSpeedConfig, "The DeepSpeed engine.")
    colossalai: ColossalAIConfig = key(ColossalAIConfig, "The ColossalAI engine.")
    world_size: int = key(
        0,
        "Number of ranks that this run must have; any other number is rejected. 0: as many as were launched.",
        at_least=0,
    )
    fault_timeout: float = key(
        60.0,
        "Seconds within which all ranks end when a rank, a host or a launcher is lost or stopped (exit code "
        "4).",
        at_least=2,
    )
    run_dir: str = key("", "The run directory. Empty: runs/NAME-OF-THE-RECIPE.", path=True)
    resume: str = key(
        "auto",
        "auto: continue from the newest checkpoint in run_dir, if there is one. never: reject a run_dir "
        "that holds a run. new_leg: as auto, also with another duration, batch_size or schedule, which "
        "legs.json records. PATH: start from a checkpoint of another run, with its optimizer state.",
        path=True,
    )
    evaluate_every: Duration = length("1ep", "How often to evaluate on the validation set.")
    log_every: Duration = length("10it", "How often to write a row to metrics.jsonl.")
    log: LogConfig = key(LogConfig, "Experiment trackers.")
    checkpoint: CheckpointConfig = key(CheckpointConfig, "Checkpoints.")
    measure: MeasureConfig = key(MeasureConfig, "What a run measures of its landscape (see tools.landscape).")
    # No keys: they are not part of the experiment, and neither recipe.yaml nor a comparison of recipes knows
    # them.
    expect: Expectation | None = field(default=None, compare=False, metadata={"hidden": True})
    finding: Finding | None = field(default=None, compare=False, metadata={"hidden": True})

    def vary(
        self, *, expect: Expectation | None = None, finding: Finding | None = None, **changes: Any
    ) -> "Recipe":
        """A copy with differences. A nested part takes a dict of its own differences; a list, or a dict of
        arguments, is replaced whole.

        Values that no longer act after the change (LARS's trust coefficient under SGD) return to their
        defaults. `expect` is the result that the copy is compared with, `finding` what of its source it
        reproduces; the parent's are not inherited, because the copy is another experiment. Raises RecipeError
        for an unknown key, a wrong type or a value out of range.
        """
        checked = tree.checked(Recipe, changes)
        varied = tree.replaced(self, checked)
        default, kept = Recipe(), inactive_keys(self).keys() | set(tree.flat(Recipe, checked))
        # A default may be what others need to be set, which then act no longer either.
        while inherited := inactive_keys(varied).keys() - kept:
            defaults = tree.nested({name: tree.value_of(default, name) for name in inherited})
            varied = tree.replaced(varied, defaults)
        return dataclasses.replace(varied, expect=expect, finding=finding)

    def with_overrides(self, words: Sequence[str]) -> "Recipe":
        """A copy with `key=value` words applied, later ones winning. Its expectation knows what changed.
        Raises RecipeError.
        """
        varied = self.vary(**tree.parsed_words(self, words))
        other = _other_experiment(self, varied)
        expect = self.expect and self.expect.with_changes(other)
        return dataclasses.replace(varied, expect=expect, finding=None if other else self.finding)

    def engine_under(self, own: str) -> str:
        """The engine that this recipe runs on where the launcher brings `own` with it."""
        return own if self.engine == "auto" else self.engine

    def zero_stage_under(self, engine: str) -> int:
        """What this engine shards; 0 for the engines that shard nothing."""
        stages = {"deepspeed": self.deepspeed.zero_stage, "colossalai": self.colossalai.zero_stage}
        return stages.get(engine, 0)

    def run_dir_for(self, name: str) -> str:
        """The run directory of this recipe under its file's name."""
        return self.run_dir or f"runs/{name}"

    def to_yaml(self) -> str:
        """Every key, as text that `from_yaml` reads."""
        return dump_yaml(tree.plain(self))

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """The inverse of `to_yaml`: it holds every key, and nothing is interpolated. Raises RecipeError."""
        try:
            changes = mapping_from_yaml(text)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            reason = (str(error) or "it is nested too deeply").splitlines()[0]
            raise RecipeError(f"it is not a recipe in YAML: {reason}") from error
        recipe = tree.replaced(cls(), tree.checked(cls, changes))
        present = set(tree.flat(cls, changes))
        for name, _ in keys():
            if name not in present:
                raise RecipeError(f"it lacks {name}: it is damaged, or another version of lbtrain wrote it")
        return recipe


def differences(before: Recipe, after: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Every key that differs, with its two values, in the order of the keys."""
    for name, _ in keys():
        old, new = tree.value_of(before, name), tree.value_of(after, name)
        if old != new:
            yield name, old, new


def keys() -> list[tuple[str, "dataclasses.Field[Any]"]]:
    """Every leaf key with its dotted name, in the order of the file."""
    return list(tree.leaves(Recipe))


def _other_experiment(before: Recipe, after: Recipe) -> list[str]:
    """What makes `after` another experiment than the one whose result `before` expects. Another seed is the
    same experiment.
    """
    same = MAY_CHANGE_ON_RESUME | {"seed", "data.format"}
    if before.expect and (before.expect.evaluations > 1 or before.expect.target):
        same -= {"evaluate_every"}  # the result depends on where the evaluations are
    if before.expect and not before.expect.target:
        same -= {"stop_at"}  # the result is that of the whole run
    return [
        f"{key} is {tree.as_text(new)}, not {tree.as_text(old)}"
        for key, old, new in differences(before, after)
        if key not in same
    ]
