"""Measures the gradient noise scale while a run trains, under every engine, and changes nothing in it.

A measured step needs squared gradient norms at two batch sizes:

- small: each micro-batch's own gradient on its own rank, seen by hooks on the parameters before it is added
  up or exchanged. Their average over passes and ranks does not depend on how the batch is split into them. A
  step of a single micro-batch on one rank has none: there, part of the batch is passed through a second time;
- large: the step's reduced gradient before clipping: `p.grad` where an engine holds whole layers. ZeRO 1 to 3
  hand their slices, clipped, to the inner optimizer: there it is read, clipping undone, and added up over
  ranks.

The loss scale of fp16 and the division by the window's length are read from the gradient of the loss itself.
Cost: on a measured step one more read of every micro-batch's gradient, and one exchange of two numbers a
layer.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lbtrain.analysis.noise_scale import Moments, RunningLayers, RunningNoise, moments, moments_of_row
from lbtrain.analysis.objective import preserve_state
from lbtrain.engines.ddp import autocast_of
from lbtrain.engines.protocol import Engine
from lbtrain.monitors.protocol import MicroStep, Monitor, StepResult
from lbtrain.optim import Shards
from lbtrain.optim.norms import squared_norm_into, squared_norms
from lbtrain.plan.batching import Phase
from lbtrain.plan.plan import Plan
from lbtrain.plan.schedules import crossed
from lbtrain.runs.rows import LayersRow, NoiseRow
from lbtrain.tasks import Task


class NoiseMonitor(Monitor):
    """Measures the steps that the plan says. `earlier` are the rows of a run that is resumed."""

    def __init__(
        self,
        plan: Plan,
        task: Task,
        engine: Engine,
        optimizer: torch.optim.Optimizer,
        earlier: Sequence[dict[str, Any]],
    ):
        self.plan, self.task, self.engine = plan, task, engine
        self.layers = engine.trained
        self.running = RunningNoise([moments_of_row(row) for row in earlier])
        self.running_layers = RunningLayers()
        self.every = plan.examples(plan.recipe.measure.noise_scale)
        shards = engine.shards() if self.every else None
        self.sliced = _SlicedGradients(engine, shards, optimizer, list(self.layers)) if shards else None
        self.step: _Step | None = None

    def before_backward(self, seen: MicroStep) -> None:
        phase = seen.phase
        if not self.every or not crossed(seen.start, seen.start + phase.batch_size, self.every):
            return
        if self.step is None:
            alone = self.engine.accumulation * self.engine.world_size == 1
            self.step = _Step(list(self.layers.values()), phase, hooked=not alone)
            if alone:
                unit = math.lcm(self.plan.bn_batch_size, self.plan.recipe.loss_batch_size)
                self.step.small_batch = small_part(phase.batch_size, unit)
                self.step.small = self._of_a_part(_first(seen.batch, self.step.small_batch))
            if self.sliced:
                self.sliced.start()
        self.step.start_pass()
        seen.losses.total.register_hook(self.step.see_loss_gradient)

    def before_update(self) -> None:
        if self.step is None:
            return
        self.step.finish()
        if not self.sliced:
            scale = self.step.loss_gradient * self.step.passes
            gradients = [
                torch.zeros(1, device=p.device) if p.grad is None else p.grad for p in self.layers.values()
            ]
            if self.plan.recipe.measure.layers:
                self.step.weights = squared_norms([p.detach() for p in self.layers.values()])
            self.step.large = squared_norms(gradients) / scale.double().square()

    def after_step(self, done: StepResult) -> Iterator[NoiseRow | LayersRow]:
        """What the step has measured, if it was one to measure. Collective."""
        measured, self.step = self.step, None
        if measured is None:
            return
        if self.sliced:
            self.sliced.measuring = False
        # Sums of what lies on each rank: their average times the ranks.
        large = (
            self.engine.mean(self.sliced.squares) * self.engine.world_size if self.sliced else measured.large
        )
        small = self.engine.mean(measured.small)
        small_square, large_square = float(small.sum()), float(large.sum())
        if not math.isfinite(small_square + large_square) or not large_square:
            return  # a step that overflowed and was skipped
        found = self.running.add(measured.moments(small_square, large_square))
        yield NoiseRow(
            step=done.progress.step,
            examples=done.progress.examples,
            small_batch=measured.small_batch,
            large_batch=measured.large_batch,
            small_square=small_square,
            large_square=large_square,
            gradient_square=found.gradient_square,
            noise_trace=found.trace,
            noise_scale=found.value,
            noise_scale_low=found.low,
            noise_scale_high=found.high if math.isfinite(found.high) else None,
            measurements=found.measurements,
        )
        if self.plan.recipe.measure.layers:
            weights = (
                self.engine.mean(self.sliced.weights) * self.engine.world_size
                if self.sliced
                else measured.weights
            )
            pairs = zip(small.tolist(), large.tolist(), strict=True)
            noise_scales = self.running_layers.add([measured.moments(*pair) for pair in pairs])
            yield LayersRow(
                done.progress.step,
                done.progress.examples,
                weight_norms=dict(zip(self.layers, weights.sqrt().tolist(), strict=True)),
                gradient_norms=dict(zip(self.layers, large.sqrt().tolist(), strict=True)),
                noise_scales=dict(zip(self.layers, noise_scales, strict=True)),
            )

    def _of_a_part(self, part: Any) -> Tensor:
        """Squared norms [layers] of the gradient of `part` alone; batch statistics and random draws are as if
        it had not been passed.
        """
        module: nn.Module = self.engine.module
        scale = self.engine.loss_scale  # or small gradients would vanish in fp16
        devices = [self.engine.device] if self.engine.device.type == "cuda" else []
        with (
            preserve_state(module),
            torch.random.fork_rng(devices),
            autocast_of(self.plan.recipe.precision, self.engine.device),
        ):
            loss = scale * self.task.loss(module, part).total
        gradients = torch.autograd.grad(
            loss, list(self.layers.values()), allow_unused=True, materialize_grads=True
        )
        return squared_norms(gradients) / scale**2


def _first(batch: Any, count: int) -> Any:
    """The first examples of a batch: of each of its parts where it is a tuple of tensors, of the batch itself
    where it can be sliced.
    """
    return tuple(part[:count] for part in batch) if isinstance(batch, tuple) else batch[:count]


def small_part(batch_size: int, unit: int) -> int:
    """Examples of a batch that are passed a second time: about a quarter, in whole units; the batch where it
    is a single one.
    """
    return max(unit, batch_size // 4 // unit * unit)


class _Step:
    """What is seen during one measured step; squares are [layers], float64."""

    def __init__(self, parameters: list[nn.Parameter], phase: Phase, *, hooked: bool):
        self.small = torch.zeros(len(parameters), dtype=torch.float64, device=parameters[0].device)
        self.large, self.weights = torch.zeros_like(self.small), torch.zeros_like(self.small)
        self.small_batch, self.large_batch = phase.split.micro_batch_size, phase.batch_size
        # Of one pass. Made beforehand: small tensors that stay, between the large ones of a backward pass
        # that go, break up the heap, and the pages that the next pass then has to ask for anew cost more than
        # all that is measured here.
        self.squares = torch.zeros(len(parameters), device=parameters[0].device)
        self.passes = 0
        self.loss_gradient = torch.ones(())
        self.hooked = hooked
        # On the parameter, not on its accumulator: so a hook sees this pass's gradient, before it is added to
        # another or sent.
        slots = zip(parameters, self.squares.unbind(), strict=True)
        self.handles = (
            [p.register_hook(partial(squared_norm_into, slot)) for p, slot in slots] if hooked else []
        )

    def start_pass(self) -> None:
        self._add_pass()
        self.passes += 1

    def _add_pass(self) -> None:
        self.small += self.squares
        self.squares.zero_()

    def see_loss_gradient(self, gradient: Tensor) -> None:
        """1 / passes, times the loss scale: what every gradient of this step is multiplied by."""
        self.loss_gradient = gradient.detach()

    def moments(self, small_square: float, large_square: float) -> Moments:
        return moments(small_square, large_square, small_batch=self.small_batch, large_batch=self.large_batch)

    def finish(self) -> None:
        for handle in self.handles:
            handle.remove()
        if self.hooked:
            self._add_pass()
            self.small = self.small / self.loss_gradient.double().square() / self.passes


class _SlicedGradients:
    """The reduced gradient as ZeRO gives it to the inner optimizer: in slices, clipped. Squares [layers] of
    what lies on this rank.
    """

    def __init__(
        self,
        engine: Engine,
        shards: Shards,
        optimizer: torch.optim.Optimizer,
        names: list[str],
    ):
        self.engine, self.flats = engine, shards.flats
        self.rows = {name: row for row, name in enumerate(names)}
        self.measuring = False
        optimizer.register_step_pre_hook(self._see)

    def start(self) -> None:
        self.measuring = True
        self.squares = torch.zeros(len(self.rows), dtype=torch.float64, device=self.engine.device)
        self.weights = torch.zeros_like(self.squares)

    def _see(self, *_: Any) -> None:
        """Called when some of the flat tensors are stepped: those that have a gradient now."""
        for flat in self.flats if self.measuring else ():
            held = [shard for shard in flat.shards if shard.numel and shard.name in self.rows]
            if flat.tensor.grad is not None and held:
                rows = torch.tensor([self.rows[shard.name] for shard in held], device=self.engine.device)
                squares = squared_norms([shard.of(flat.tensor.grad) for shard in held])
                weights = squared_norms([shard.of(flat.tensor.detach()) for shard in held])
                # Both lie on the CPU where DeepSpeed offloads the optimizer.
                self.squares[rows] = squares.to(self.squares.device) * self.engine.clipped_by() ** 2
                self.weights[rows] = weights.to(self.weights.device)
