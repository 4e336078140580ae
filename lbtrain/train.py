"""The loop. Everything that happens in a run happens here, in this order; read this first.

A position in the run is the number of examples seen. Learning rate, sample order, evaluations and checkpoints
are functions of it, so it is all that a checkpoint has to remember besides weights and optimizer state.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch

from lbtrain.engines.protocol import Engine
from lbtrain.errors import Preempted
from lbtrain.faults import watchdog
from lbtrain.faults.finite import FiniteCheck
from lbtrain.faults.stopping import StopRequest
from lbtrain.monitors import MicroStep, Monitors, StepResult, replaced_over_ranks
from lbtrain.nn import regroup_ghost_batches
from lbtrain.plan.batching import Phase
from lbtrain.plan.plan import Plan
from lbtrain.plan.schedules import crossed
from lbtrain.runs.checkpoint import Checkpoints, Progress
from lbtrain.runs.records import EvalRow, Pictures, Records
from lbtrain.tasks import Evaluation, Task
from lbtrain.techniques import Techniques


def train(
    plan: Plan,
    task: Task,
    engine: Engine,
    records: Records,
    checkpoints: Checkpoints,
    progress: Progress,
    techniques: Techniques,
    monitors: Monitors,
) -> EvalRow:
    """Trains from `progress` to the end of the plan and returns the last evaluation. Collective.

    Raises Preempted after a signal, when everything is saved; Diverged when a loss or a gradient is no longer
    finite.
    """
    examples, step, skipped = progress.examples, progress.step, progress.skipped_steps
    phase = techniques.batch.phase(progress)
    batches = start_phase(phase, task, engine, techniques, examples)
    recipe_yaml = (
        task.recipe.to_yaml()
    )  # here: it makes a thousand objects that only the garbage collector finds
    stop = StopRequest()
    finite = FiniteCheck(plan, task.stream, engine, checkpoints.folder.parent, skipped=skipped)
    engine.model.train()
    evaluation = None
    try:
        while examples < plan.total_examples:
            watchdog.at(step, "training")
            before = examples
            lr = plan.lr(examples) * phase.lr_factor
            for _ in range(engine.accumulation):
                with monitors.waiting():
                    batch = next(batches)
                losses = task.loss(engine.model, batch)
                loss = sum(losses.values(), torch.zeros((), device=engine.device))
                finite.add(loss)
                monitors.before_backward(MicroStep(batch, loss, losses, before, phase))
                engine.backward(loss)
            monitors.before_update()
            examples += phase.batch_size
            step += 1
            finite.close(step, lr, before, phase.split)
            if not engine.step(lr):
                skipped += 1
                finite.skipped()
            if techniques.average:
                techniques.average.update(step)
            progress = Progress(examples, step, skipped)
            finished, stopped = examples >= plan.total_examples, stop.agreed(finite.late())
            writes = (plan.log_every, plan.evaluate_every, plan.checkpoint_every)
            finite.check(
                stop.bad_step,
                now=finished or stopped or any(crossed(before, examples, every) for every in writes),
            )

            done = StepResult(progress, phase, lr)
            monitors.after_step(done, logged=finished or crossed(before, examples, plan.log_every))
            with monitors.paused():
                coming = techniques.batch.phase(
                    progress
                )  # before the checkpoint, which keeps what was decided
            if finished or crossed(before, examples, plan.evaluate_every):
                watchdog.at(step, "evaluation")
                with monitors.paused():
                    evaluation, pictures = evaluate(plan, task, engine, techniques, progress)
                records.write(evaluation)
                records.write_pictures(pictures, evaluation)
                monitors.after_evaluation(done)
            if finished or stopped or crossed(before, examples, plan.checkpoint_every):
                watchdog.at(step, "checkpoint")
                with monitors.paused():
                    save(engine, checkpoints, progress, techniques, recipe_yaml, wait=finished or stopped)
            if stopped and not finished:
                raise Preempted(
                    f"stopped by a signal after step {step}; everything is saved: the same command goes on "
                    "from there"
                )
            if coming != phase:
                phase, batches = coming, start_phase(coming, task, engine, techniques, examples)
    finally:
        stop.close()
        checkpoints.wait()
    return evaluation or evaluate(plan, task, engine, techniques, progress)[0]


def start_phase(
    phase: Phase, task: Task, engine: Engine, techniques: Techniques, examples: int
) -> Iterator[Any]:
    """Cuts the steps from position `examples` on as `phase` says, and returns this rank's micro-batches from
    there on. Collective.
    """
    engine.accumulation = phase.split.accumulation
    regroup_ghost_batches(engine.model, phase.split.ranks_per_ghost)
    size = phase.split.micro_batch_size
    batches = task.batches(
        start=examples, micro_batch_size=size, rank=engine.rank, world_size=engine.world_size
    )
    return techniques.batch.batches(batches, phase, examples)


def evaluate(
    plan: Plan, task: Task, engine: Engine, techniques: Techniques, progress: Progress
) -> tuple[EvalRow, Pictures]:
    """Scores every example of the evaluation set once, and the averaged weights too if there are any.
    Collective.
    """
    started = time.perf_counter()
    found = score(plan, task, engine)
    metrics = dict(found.metrics)
    if techniques.average:
        with techniques.average.in_place_of_the_weights():
            metrics |= {f"ema_{name}": value for name, value in score(plan, task, engine).metrics.items()}
    epoch, seconds = progress.examples / plan.train_examples, time.perf_counter() - started
    return EvalRow(
        progress.step, progress.examples, epoch, metrics, seconds, replaced_over_ranks(engine)
    ), found.pictures


def score(plan: Plan, task: Task, engine: Engine) -> Evaluation:
    engine.model.eval()
    size = task.recipe.validation_batch_size or plan.split.micro_batch_size
    found = task.evaluate(engine.model, micro_batch_size=size, rank=engine.rank, world_size=engine.world_size)
    engine.model.train()
    return found


def save(
    engine: Engine,
    checkpoints: Checkpoints,
    progress: Progress,
    techniques: Techniques,
    recipe_yaml: str,
    *,
    wait: bool,
) -> None:
    """Collective: all ranks give their part, rank 0 writes, while the others and the loop go on unless told
    to `wait`.
    """
    state = engine.save()
    if state is not None:
        checkpoints.save(state, progress, recipe_yaml, techniques.state())
    if wait:
        checkpoints.wait()
        engine.mean(torch.zeros(1, device=engine.device))  # nobody exits before the file is there
