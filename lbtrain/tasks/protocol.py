"""What the loop asks of a job: batches, losses, an evaluation. A task knows nothing of engines; an engine
knows nothing of tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lbtrain.data.index import DatasetIndex
from lbtrain.data.stream import Stream
from lbtrain.recipe import Recipe


@dataclass(frozen=True)
class PrimaryMetric:
    """The metric by which runs of a task are compared, in percent."""

    name: str
    """Its key among the metrics, in metrics.jsonl and in summary.json."""
    label: str
    """In words, for tables and axes."""
    higher_is_better: bool


def primary_metric_of(recipe: Recipe) -> PrimaryMetric:
    """The metric by which runs of `recipe` are compared, known before any of them ended."""
    if not recipe.model.finds:
        return PrimaryMetric("top1_error", "top-1 error", higher_is_better=False)
    kind = recipe.model.finds[0]
    return PrimaryMetric(f"{kind}_ap", f"{kind} AP", higher_is_better=True)


@dataclass(frozen=True)
class Losses:
    """Of a micro-batch, still on the device."""

    parts: dict[str, Tensor]
    """The loss, or its parts by name: each a mean over the micro-batch, so that the engines' average over
    accumulation and ranks is the mean over the global batch.
    """
    error: Tensor | None = None
    """The training error in percent, from the same forward pass and a mean as the losses are. None where a
    task has no such number.
    """

    @cached_property
    def total(self) -> Tensor:
        """The sum of the parts, which is minimised."""
        return reduce(torch.add, self.parts.values())


@dataclass(frozen=True)
class Evaluation:
    """Metrics over the whole evaluation set by name, and what to look at: pictures by name, uint8 (height,
    width, 3).
    """

    metrics: dict[str, float]
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All that an evaluation says: metrics, tables as rows of columns by name, and pictures."""

    metrics: dict[str, float]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


class Task(Protocol):
    """One job on one rank."""

    recipe: Recipe
    primary_metric: PrimaryMetric
    stream: Stream
    """The order of the training examples, from which `batches` are taken."""

    def index(self) -> DatasetIndex:
        """Of what the data set consists: printed at the start, and compared between ranks."""

    def about(self) -> dict[str, Any]:
        """What somebody needs who has nothing but the weights, as every checkpoint keeps it: `class_names`,
        and in `inputs` how an image becomes an input.
        """

    def batches(
        self, *, start: int, micro_batch_size: int, rank: int, world_size: int, image_size: int | None = None
    ) -> Iterator[Any]:
        """This rank's micro-batches from position `start` of the run on, without end. What a batch is, only
        the task knows. `image_size`: pixels a side where they are not those of evaluations; of classifiers.
        """

    def loss(self, model: nn.Module, batch: Any) -> Losses:
        """`model` is the engine's and is called once, so that gradients are exchanged once."""

    def evaluate(self, model: nn.Module, *, micro_batch_size: int, rank: int, world_size: int) -> Evaluation:
        """Scores every example of the evaluation set once, whatever the number of ranks; the same metrics on
        every rank. Collective.
        """

    def report(
        self, model: nn.Module, *, train: bool, micro_batch_size: int, rank: int, world_size: int
    ) -> Report:
        """As `evaluate`, in detail, and of the training split without augmentation if `train` is set.
        Collective. Raises RecipeError for a split without examples.
        """
