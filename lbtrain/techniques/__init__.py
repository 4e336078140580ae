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
    "create_average",
    "create_techniques",
    "fgsm",
]


@dataclass(frozen=True)
class Techniques:
    batch: BatchControl
    average: WeightAverage | None = None

    def after_update(self, step: int, ema_decay: float) -> None:
        """`ema_decay`: of a step of this batch size."""
        if self.average:
            self.average.update(step, ema_decay)

    def state(self) -> dict[str, Any]:
        """What they have to remember: tensors, numbers and text by name, for a checkpoint. The same on every
        rank.
        """
        return self.batch.state() | (self.average.state() if self.average else {})

    def load(self, state: Mapping[str, Any]) -> None:
        self.batch.load(state)
        if self.average:
            self.average.load(state)


def create_techniques(
    plan: Plan, model: nn.Module, average: WeightAverage | None, task: Task, engine: Engine, records: Records
) -> Techniques:
    """`model` is the bare one that the engine trains."""
    adaptive = plan.recipe.absa.max_batch_size > 0
    batch = AdaptiveBatches(plan, model, task, engine, records) if adaptive else PlannedBatches(plan)
    return Techniques(batch, average)


def create_average(recipe: Recipe, model: nn.Module) -> WeightAverage | None:
    """Before the engine is made: ZeRO stage 3 would shard what is averaged."""
    return (
        WeightAverage(model, decay=recipe.ema.decay, warmup=recipe.ema.warmup) if recipe.ema.decay else None
    )
