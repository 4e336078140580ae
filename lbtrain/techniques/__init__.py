"""What a recipe switches on beside the update itself, as the loop sees it: who decides the batch, and an
average of the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lbtrain.engines.protocol import Engine
from lbtrain.plan.plan import Plan
from lbtrain.recipe import Recipe
from lbtrain.runs.records import Records
from lbtrain.tasks import Task
from lbtrain.techniques.absa import AdaptiveBatches
from lbtrain.techniques.batch_control import BatchControl, PlannedBatches
from lbtrain.techniques.fgsm import fgsm
from lbtrain.techniques.weight_average import WeightAverage

__all__ = [
    "AdaptiveBatches",
    "BatchControl",
    "PlannedBatches",
    "Techniques",
    "WeightAverage",
    "create_batch_control",
    "fgsm",
]


@dataclass(frozen=True)
class Techniques:
    batch: BatchControl
    average: WeightAverage | None = None

    def state(self) -> dict[str, Any]:
        """What they have to remember: tensors, numbers and text by name, for a checkpoint. The same on every
        rank.
        """
        return self.batch.state() | (self.average.state() if self.average else {})

    def load(self, state: Mapping[str, Any]) -> None:
        self.batch.load(state)
        if self.average:
            self.average.load(state)


def create_batch_control(
    recipe: Recipe, plan: Plan, model: nn.Module, task: Task, engine: Engine, records: Records
) -> BatchControl:
    """`model` is the bare one that the engine trains."""
    if plan.ladder:
        return AdaptiveBatches(recipe, plan, model, task, engine, records)
    return PlannedBatches(plan)
