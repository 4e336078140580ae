"""The training loss of a run as a function of its weights: over which examples, in which micro-batches."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from lbtrain.analysis import Objective
from lbtrain.analysis.objective import BatchNormMode
from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe
from lbtrain.tasks import Task, create_task

from .runs import DistContext, Run

MICRO_BATCH = 64
"""Images per forward pass by default: a Hessian-vector product keeps about twice the activations
of a training step.
"""


@dataclass(frozen=True)
class LossOptions:
    """Over which examples the loss is taken, and how batch norm behaves meanwhile."""

    examples: int
    micro_batch: int
    """Images per forward pass; 0: MICRO_BATCH, or more where the ghost batches of a run need it."""
    batch_norm: BatchNormMode

    @classmethod
    def of(cls, options: argparse.Namespace) -> "LossOptions":
        return cls(options.examples, options.micro_batch, options.batch_norm)

    def fitting(self, ghost: int) -> "LossOptions":
        """With a micro-batch that holds whole ghost batches of so many images."""
        ghost = ghost if self.batch_norm == "batch" else 1
        return replace(self, micro_batch=math.ceil((self.micro_batch or MICRO_BATCH) / ghost) * ghost)

    def check(self, ghosts: Mapping[Path, int], world_size: int) -> None:
        """Raises RecipeError, with a number that fits all, unless every run (its path, the size of its ghost
        batches) can be measured: in micro-batches of whole ghost batches, and equally many on each rank.
        """
        fitted = {path: self.fitting(ghost).micro_batch for path, ghost in ghosts.items()}
        for path, whole in fitted.items():
            if self.micro_batch and self.micro_batch != whole:
                raise RecipeError(
                    f"--micro-batch {self.micro_batch} holds no whole number of the ghost batches of "
                    f"{ghosts[path]} images in {path}: --micro-batch "
                    f"{self.fitting(math.lcm(*ghosts.values())).micro_batch} does, and --batch-norm eval "
                    "needs none"
                )
        together = math.lcm(*fitted.values()) * world_size
        if self.examples % together:
            raise RecipeError(
                f"--examples {self.examples} is not a whole number of micro-batches of "
                f"{' and of '.join(map(str, sorted(set(fitted.values()))))} on each of {world_size} ranks: "
                f"use --examples {math.ceil(self.examples / together) * together}"
            )


def check_classifier(path: Path, recipe: Recipe) -> None:
    """Raises RecipeError for the run or the recipe in `path` if its loss is no function to measure."""
    if recipe.model.library != "timm":
        raise RecipeError(
            f"{path} is of model.library={recipe.model.library}, whose loss exists in training mode only and "
            "jumps where another proposal is taken: sharpness, hessian, training, warm-start and compare are "
            "for classifiers (timm)"
        )


def check_measurable(runs: Sequence[Run], options: LossOptions, world_size: int) -> None:
    """Raises RecipeError, with a remedy that is one for all, where one of the runs cannot be measured."""
    for run in runs:
        check_classifier(run.path, run.recipe)
        _ = run.whole  # a run without a good checkpoint is reported here too
    options.check({run.path: run.plan["bn_batch_size"] for run in runs}, world_size)


class TrainingLoss:
    """The loss over the first examples of the stream of `run`, shared out over the ranks. Of all checkpoints
    of a run it is one: the data set is opened once, when the first of them is measured.

    Raises RecipeError where the examples cannot be shared out, and for a detector.
    """

    def __init__(self, run: Run, context: DistContext, options: LossOptions):
        check_measurable([run], options, context.world_size)
        self.recipe, self.context = run.recipe, context
        self.options = options.fitting(run.plan["bn_batch_size"])
        self._held: dict[int | None, list[Any]] = {}

    @cached_property
    def task(self) -> Task:
        return create_task(self.recipe, self.context.device)

    def at(self, run: Run) -> Objective:
        """At the checkpoint of `run`, of which nothing but the weights stays in memory."""

        def loss(model: Callable[..., Any], batch: Any) -> Tensor:
            return self.task.loss(model, batch).total  # type: ignore[arg-type]

        model = run.model(dict(run.read_checkpoint().state["model"]), self.context.device)
        batches = self._batches(run.image_size)
        return Objective(model, loss, batches, batch_norm=self.options.batch_norm, mean=self.context.mean)

    def _batches(self, image_size: int | None) -> list[Any]:
        """The micro-batches of this rank, with images of the size that the checkpoint was trained on."""
        if image_size not in self._held:
            rank, world_size = self.context.rank, self.context.world_size
            micro = self.options.micro_batch
            stream = self.task.batches(
                start=0, micro_batch_size=micro, rank=rank, world_size=world_size, image_size=image_size
            )
            self._held = {image_size: list(islice(stream, self.options.examples // (micro * world_size)))}
        return self._held[image_size]
