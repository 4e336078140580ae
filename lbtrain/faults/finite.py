"""NaN and Inf in a loss or a gradient, found at their step without waiting for the device.

Each step leaves its losses and one norm per layer on the device and starts a copy of "is all of it finite" to
the CPU. The answer is read when the next step has been given out, and told to the other ranks with their
exchange of stop flags; before anything is written (a row, an evaluation, a checkpoint) it is asked for at
once. So a step that was not finite ends the run before its weights are kept.
"""

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lbtrain.data.stream import Stream
from lbtrain.engines.protocol import Engine
from lbtrain.errors import Diverged, SaveFailed
from lbtrain.optim import gradient_norms, named_layers
from lbtrain.plan.batching import BatchSplit
from lbtrain.plan.plan import Plan
from lbtrain.runs.files import write_whole

_LATEST = 3  # a step is known to be finite on all ranks when two more have been given out


@dataclass
class Step:
    """One step, as it was given out. `norms` holds one number per layer of `names`; no layer where an engine
    keeps no whole gradients.
    """

    step: int
    lr: float
    start: int
    split: BatchSplit
    losses: Tensor
    names: list[str]
    norms: Tensor
    flag: Tensor
    copied: Any
    forgiven: bool = False

    def bad(self) -> bool:
        """Waits, on a GPU, until the device has come as far as this step."""
        if self.copied is not None:
            self.copied.synchronize()
        return bool(self.flag) and not self.forgiven


class FiniteCheck:
    """Sees every step of one rank. Up to `skip_nonfinite` updates that the engine skipped for this
    reason are forgiven.
    """

    def __init__(self, plan: Plan, stream: Stream, engine: Engine, run_dir: Path, *, skipped: int):
        self.stream, self.engine, self.run_dir = stream, engine, run_dir
        self.layers = named_layers(engine.model)
        # The scaled gradients of fp16 overflow as a matter of course; its scaler looks after them.
        self.scaled = plan.recipe.precision == "fp16"
        self.left = plan.recipe.skip_nonfinite - (0 if self.scaled else skipped)
        self.max_overflows, self.min_loss_scale = plan.recipe.max_overflows, plan.recipe.min_loss_scale
        self.overflows, self.overflowed = 0, 0  # how many in a row, and the step of the last one
        self.steps: deque[Step] = deque(maxlen=_LATEST)
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """The loss of a micro-batch of the step that is being made."""
        self._losses.append(loss.detach())

    def close(self, step: int, lr: float, start: int, split: BatchSplit) -> None:
        """The step is complete but for its update."""
        losses = torch.stack(self._losses)
        self._losses = []
        names, norms = ([], losses.new_zeros(0)) if self.scaled else gradient_norms(self.layers)
        bad = ~(losses.isfinite().all() & norms.isfinite().all())
        on_gpu = bad.is_cuda
        flag = (
            torch.empty((), dtype=torch.bool, pin_memory=True).copy_(bad, non_blocking=True)
            if on_gpu
            else bad
        )
        copied = torch.cuda.current_stream().record_event() if on_gpu else None
        self.steps.append(Step(step, lr, start, split, losses, names, norms, flag, copied))

    def skipped(self) -> None:
        """The engine has skipped the update, as it does on all ranks alike. Collective; raises Diverged where
        that is one too many.
        """
        if self.scaled:
            self._count_overflow(self.steps[-1])
            if not self._anywhere()[-1]:
                return
        self.left -= 1
        self.steps[-1].forgiven = self.left >= 0
        if self.left < 0:
            raise self._diverged(self.steps[-1])

    def _count_overflow(self, step: Step) -> None:
        """Raises Diverged where a smaller loss scale no longer helps: from there on nothing would train."""
        self.overflows = self.overflows + 1 if step.step == self.overflowed + 1 else 1
        self.overflowed, scale = step.step, self.engine.loss_scale
        if self.overflows >= self.max_overflows or scale < self.min_loss_scale:
            raise self._diverged(
                step,
                f"gradients in fp16 overflowed in {self.overflows} steps in a row (max_overflows="
                f"{self.max_overflows}), and the loss scale fell to {scale:g} (min_loss_scale="
                f"{self.min_loss_scale:g})",
            )

    def late(self) -> int:
        """The step before the last one if it was bad here, else 0; the device has done it by now, so that
        asking costs no time.
        """
        return self.steps[-2].step if len(self.steps) > 1 and self.steps[-2].bad() else 0

    def check(self, told: int, *, now: bool) -> None:
        """Raises Diverged for the step that another rank or this one has `told` (0: none), or for any if
        asked `now`. Collective.
        """
        places = [place for place, step in enumerate(self.steps) if step.step == told] if told else []
        if now and not places:
            places = [place for place, bad in enumerate(self._anywhere()) if bad]
        if places:
            raise self._diverged(self.steps[places[0]])

    def _anywhere(self) -> list[bool]:
        """For each of the latest steps, whether it was bad on any rank. Collective; waits for the device."""
        flags = torch.tensor([float(step.bad()) for step in self.steps], device=self.engine.device)
        return [share > 0 for share in self.engine.mean(flags).tolist()]

    def _diverged(self, bad: Step, what: str = "") -> Diverged:
        """The error, with a description of the step in run_dir/diverged.json. Collective."""
        everywhere: list[Any] = [None] * self.engine.world_size
        dist.all_gather_object(everywhere, bad.losses.tolist())
        layers = [
            name for name, norm in zip(bad.names, bad.norms.tolist(), strict=True) if not math.isfinite(norm)
        ]
        path = self.run_dir / "diverged.json"
        unsaved = ""
        if self.engine.rank == 0:
            try:
                write_whole(
                    path, json.dumps(description(bad, everywhere, layers, self.stream), indent=1) + "\n"
                )
            except SaveFailed as error:
                unsaved = f" ({error})"
        losses = [loss for rank in everywhere for loss in rank]
        mean = sum(losses) / len(losses)
        if not math.isfinite(mean):
            what = f"the loss is {mean}"
        what = what or f"the gradient of {_some(layers)} is not finite"
        return Diverged(
            f"{what} at step {bad.step}, learning rate {bad.lr:.4g}: lower schedule.base_lr or lengthen "
            f"schedule.warmup{', or use precision=bf16' if self.scaled else ''}. "
            f"{path} names layers and samples{unsaved}; no checkpoint is later than the step before"
        )


def description(
    bad: Step, losses: Sequence[Sequence[float]], layers: list[str], stream: Stream
) -> dict[str, Any]:
    """What is written down of a step; `losses` by rank, one per micro-batch. Samples are indices in the
    training set.
    """
    size, ranks = bad.split.micro_batch_size, len(losses)
    batches = []
    for rank, values in enumerate(losses):
        for number, loss in enumerate(values):
            block = stream.block(bad.start + (number * ranks + rank) * size, size)
            batches.append(
                {"rank": rank, "micro_batch": number, "loss": repr(loss), "samples": block.indices.tolist()}
            )
    suspects = [batch for batch in batches if not math.isfinite(float(str(batch["loss"])))]
    return {
        "step": bad.step,
        "lr": bad.lr,
        "examples": bad.start,
        "layers": layers,
        "suspects": suspects or batches,
    }


def _some(names: list[str]) -> str:
    if not names:
        return "some layer"
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
