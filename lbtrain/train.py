"""The loop. Everything that happens in a run happens here, in this order; read this first.

A position in the run is the number of examples seen. Learning rate, sample order, evaluations and checkpoints are functions of it, so it
is all that a checkpoint has to remember besides weights and optimizer state.
"""

import contextlib
import math
import time
from collections.abc import Iterator

import torch

from lbtrain.checkpoint import Checkpoints, Progress
from lbtrain.engines.protocol import Engine
from lbtrain.errors import Diverged, Preempted
from lbtrain.optim import TrustSummary, trust_ratios, trust_summary
from lbtrain.plan import Plan
from lbtrain.records import EvalRow, Records, TrainRow, TrustRow
from lbtrain.stopping import StopRequest
from lbtrain.tasks.classification import Classification


def train(
    plan: Plan,
    task: Classification,
    engine: Engine,
    optimizer: torch.optim.Optimizer,
    records: Records,
    checkpoints: Checkpoints,
    progress: Progress,
) -> EvalRow:
    """Trains from `progress` to the end of the plan and returns the last evaluation. Collective.

    `optimizer` is the one that the engine steps; it is only asked for its layer-wise ratios.

    Raises Preempted after a signal, when everything is saved; Diverged when the loss is no longer finite.
    """
    examples, step, skipped = progress.examples, progress.step, progress.skipped_steps
    batches = task.batches(start=examples, micro_batch_size=plan.cut.micro_batch_size, rank=engine.rank, world_size=engine.world_size)
    stop = StopRequest()
    window = _Window(engine)
    engine.model.train()
    evaluation = None
    try:
        while examples < plan.total_examples:
            before = examples
            lr = plan.lr(examples)
            for _ in range(engine.accumulation):
                with window.waiting():
                    batch = next(batches)
                losses = task.loss(engine.model, batch)
                loss = sum(losses.values(), torch.zeros((), device=engine.device))
                engine.backward(loss)
                window.add(loss)
            skipped += not engine.step(lr)
            examples += plan.batch_size
            step += 1
            progress = Progress(examples, step, skipped)
            finished, stopped = examples >= plan.total_examples, stop.agreed()

            if finished or crossed(before, examples, plan.log_every):
                row = window.row(plan, progress, lr, trust_summary(optimizer))
                records.write(row)
                check_finite(row)
            if finished or crossed(before, examples, plan.evaluate_every):
                with window.paused():
                    evaluation = evaluate(plan, task, engine, progress)
                records.write(evaluation)
                if ratios := trust_ratios(optimizer):
                    records.write(TrustRow(step, examples, ratios))
            if finished or stopped or crossed(before, examples, plan.checkpoint_every):
                with window.paused():
                    save(engine, checkpoints, progress, task)
            if stopped and not finished:
                raise Preempted(f"stopped by a signal after step {step}; everything is saved: the same command goes on from there")
    finally:
        stop.close()
    return evaluation or evaluate(plan, task, engine, progress)


def crossed(before: float, after: float, every: float) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every


def evaluate(plan: Plan, task: Classification, engine: Engine, progress: Progress) -> EvalRow:
    """Scores every example of the evaluation set once, whatever the number of ranks. Collective."""
    started = time.perf_counter()
    engine.model.eval()
    sums = task.evaluate(engine.model, micro_batch_size=plan.cut.micro_batch_size, rank=engine.rank, world_size=engine.world_size)
    engine.model.train()
    metrics = task.metrics(engine.mean(sums))
    return EvalRow(
        step=progress.step,
        examples=progress.examples,
        epoch=progress.examples / plan.train_examples,
        top1_error=metrics["top1_error"],
        top5_error=metrics["top5_error"],
        loss=metrics["loss"],
        seconds=time.perf_counter() - started,
    )


def save(engine: Engine, checkpoints: Checkpoints, progress: Progress, task: Classification) -> None:
    """Collective: all ranks give their part, rank 0 writes."""
    state = engine.save()
    if state is not None:
        checkpoints.save(state, progress, task.recipe.to_yaml())
    engine.mean(torch.zeros(1, device=engine.device))  # nobody goes on, or exits, before the file is there


def check_finite(row: TrainRow) -> None:
    """Raises Diverged, on every rank alike, since the logged loss is the average over all of them."""
    if not math.isfinite(row.loss):
        raise Diverged(
            f"the loss is {row.loss} at step {row.step}, learning rate {row.lr:.4g}: lower schedule.base_lr or lengthen schedule.warmup"
        )


class _Window:
    """Sums since the last logged row. The loss stays on the device until then, so that no step waits for it."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._restart()

    def _restart(self) -> None:
        self.loss = torch.zeros((), device=self.engine.device)
        self.passes, self.waited = 0, 0.0
        self.started = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in here is time without data."""
        entered = time.perf_counter()
        yield
        self.waited += time.perf_counter() - entered

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in here is not training time."""
        entered = time.perf_counter()
        yield
        self.started += time.perf_counter() - entered

    def add(self, loss: torch.Tensor) -> None:
        self.loss += loss.detach()
        self.passes += 1

    def row(self, plan: Plan, progress: Progress, lr: float, trust: TrustSummary | None) -> TrainRow:
        """The averages since the last row, over all ranks; starts the next window. Collective."""
        loss = float(self.engine.mean(self.loss) / self.passes)
        seconds = time.perf_counter() - self.started
        row = TrainRow(
            step=progress.step,
            examples=progress.examples,
            epoch=progress.examples / plan.train_examples,
            lr=lr,
            loss=loss,
            images_per_sec=self.passes * plan.cut.micro_batch_size * plan.world_size / seconds,
            data_wait=self.waited / seconds,
            skipped_steps=progress.skipped_steps,
            trust_min=trust and trust.min,
            trust_median=trust and trust.median,
            trust_max=trust and trust.max,
        )
        self._restart()
        return row
