"""ABSA: the batch doubles where the loss has become flatter, with adversarial examples while it is small.

Source: Yao et al. 2018, "Large batch size training of neural networks with adversarial training and
second-order information", algorithm 1, with the constants of the authors' code. Once per `absa.every` the
largest Hessian eigenvalue is measured by power iteration. If it is at most half the reference, or
`absa.patience` measurements went by without growth, the batch doubles, the rate grows with it, and the share
of FGSM examples is halved; in the first case the eigenvalue becomes the reference. The largest batch has no
adversarial examples.

The Hessian is that of the mean loss over the next `batch_size` images, averaged over all ranks, in evaluation
mode (running statistics in place of those of the ghost batches), as in the authors' code: so it does not
depend on the batch split. The authors clip adversarial images at the extremes of their batch, which depend
on the split; here it is the range of the pixels. Which images are adversarial is a draw that belongs to the
position in the run, where the authors take the first of each batch.

Holds: a resumed run is bit-identical, since decisions are stored in the checkpoint. On another split or world
the eigenvalue differs by rounding, and a decision differs only if the eigenvalue lies within that of half
the reference. Cost: at most 10 products, about 90 passes over `batch_size` images, a measurement; two passes
over the adversarial images.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lbtrain.analysis import Objective, power_iteration
from lbtrain.data.augment import uniform
from lbtrain.data.loading import replaced_images
from lbtrain.data.registry import dataset_info, pixel_rules
from lbtrain.data.stream import Block
from lbtrain.engines.ddp import autocast_of
from lbtrain.engines.protocol import Engine
from lbtrain.plan.batching import Phase
from lbtrain.plan.plan import Plan
from lbtrain.recipe import Recipe
from lbtrain.runs.progress import Progress
from lbtrain.runs.records import Records
from lbtrain.runs.rows import CurvatureRow
from lbtrain.tasks import Task
from lbtrain.tasks.weights import published_name
from lbtrain.techniques.fgsm import fgsm

ITERATIONS, TOLERANCE, DROP = 10, 0.01, 2
_COUNTS = ("level", "measured_at", "without_growth")
_SALT = 1 << 35
"""Keeps the draws apart from those of augmentation, mixup and loss weights."""


class AdaptiveBatches:
    """See `BatchControl`. Goes from one of the plan's phases to the next."""

    def __init__(self, plan: Plan, model: nn.Module, task: Task, engine: Engine, records: Records):
        self.config, self.seed, self.plan = plan.recipe.absa, plan.recipe.seed, plan
        self.every = plan.examples(self.config.every)
        self.adversarial_until = plan.schedule_examples(self.config.adversarial_until)
        self.model, self.task, self.engine, self.records = model, task, engine, records
        self.low, self.high = _pixel_range(plan.recipe, engine.device)
        self.level = self.without_growth = 0
        self.measured_at = 0
        """The position of the last measurement: `every` may be another in the next leg of the run."""
        self.reference: float | None = None

    def phase(self, progress: Progress) -> Phase:
        if (
            progress.examples // self.every > self.measured_at // self.every
            and self.level < len(self.plan.phases) - 1
            and progress.examples < self.plan.total_examples
        ):
            self.measured_at = progress.examples
            eigenvalue = self.eigenvalue(progress.examples)
            self.decide(eigenvalue)
            batch_size = self.plan.phases[self.level].batch_size
            self.records.write(CurvatureRow(progress.step, progress.examples, eigenvalue, batch_size))
        return self.plan.phases[self.level]

    def eigenvalue(self, examples: int) -> float:
        """The largest in magnitude, of the mean loss over the `batch_size` images from position `examples`
        on. Collective.
        """
        split = self.plan.phases[0].split
        where = dict(
            micro_batch_size=split.micro_batch_size, rank=self.engine.rank, world_size=self.engine.world_size
        )
        with replaced_images.pause():
            batches = list(itertools.islice(self.task.batches(start=examples, **where), split.accumulation))
        objective = Objective(self.model, self._loss, batches, batch_norm="eval", mean=self.engine.mean)
        return power_iteration(objective, iterations=ITERATIONS, tolerance=TOLERANCE, seed=self.seed).value

    def decide(self, eigenvalue: float) -> None:
        """Whether the batch doubles after this measurement. A negative eigenvalue counts by its size: a
        saddle is no flatter place.
        """
        self.without_growth += 1
        if self.reference is None:
            self.reference = abs(eigenvalue)
        elif abs(eigenvalue) <= self.reference / DROP:
            self.reference = abs(eigenvalue)
            self._grow()
        if self.config.patience and self.without_growth >= self.config.patience:
            self._grow()

    def _grow(self) -> None:
        self.level = min(self.level + 1, len(self.plan.phases) - 1)
        self.without_growth = 0

    def adapted(self, batch: tuple[Tensor, ...], phase: Phase, first: int) -> tuple[Tensor, ...]:
        """With the share of adversarial images that belongs to the phase."""
        level = self.plan.phases.index(phase)
        share = self.config.adversarial_share / 2**level if level < len(self.plan.phases) - 1 else 0.0
        return self._with_adversaries(batch, first, share)

    def _with_adversaries(self, batch: tuple[Tensor, ...], first: int, share: float) -> tuple[Tensor, ...]:
        positions = np.arange(first, first + len(batch[0]))
        drawn = uniform(Block.of(positions), self.seed + _SALT) < share
        chosen = torch.from_numpy(np.flatnonzero(drawn & (positions < self.adversarial_until))).to(
            batch[0].device
        )
        if not len(chosen):
            return batch
        some = tuple(part[chosen] for part in batch)
        moved = fgsm(self.model, self._loss, some, self.config.adversarial_step, low=self.low, high=self.high)
        return batch[0].index_copy(0, chosen, moved), *batch[1:]

    def _loss(self, model: Any, batch: Any) -> Tensor:
        """In the precision of the run: some engines apply it around the module, which is bare here."""
        with autocast_of(self.plan.recipe.precision, self.engine.device):
            return self.task.loss(model, batch).total

    def state(self) -> dict[str, Any]:
        return {"absa": {name: getattr(self, name) for name in (*_COUNTS, "reference")}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Raises KeyError, TypeError or ValueError for what `state()` did not give."""
        own = dict(state["absa"])
        if "measured" in own:  # checkpoints of earlier versions say how often; it was in the interval after
            own["measured_at"] = (own["measured"] + 0.5) * self.every
        counts = {name: int(own[name]) for name in _COUNTS}
        if min(counts.values()) < 0 or counts["level"] >= len(self.plan.phases):
            raise ValueError(f"{counts} in a run of {len(self.plan.phases)} batch sizes")
        vars(self).update(counts, reference=None if own["reference"] is None else float(own["reference"]))


def _pixel_range(recipe: Recipe, device: torch.device) -> tuple[Tensor, Tensor]:
    """The normalised values of black and white, shape (channels, 1, 1)."""
    rules = pixel_rules(recipe.data, dataset_info(recipe.data), published_name(recipe.model))
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (rules.mean, rules.std))
    return -mean / std, (255 - mean) / std
