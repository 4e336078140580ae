"""The loop. Everything that happens in a run happens here, in this order; read this first.

A position in the run is the number of examples seen. Learning rate, sample order, evaluations and checkpoints
are functions of it, so it is all that a checkpoint has to remember besides weights and optimizer state.

Two objects observe the training and change nothing in it: `monitors` measure and record, `faults` detect
losses and gradients that are not finite, signals and lost ranks.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from lbtrain.engines.protocol import Engine
from lbtrain.errors import Diverged, Preempted
from lbtrain.evaluate import evaluate
from lbtrain.faults.training import Faults
from lbtrain.monitors import MicroStep, Monitors, StepResult
from lbtrain.nn import regroup_ghost_batches
from lbtrain.plan.batching import Phase
from lbtrain.plan.plan import Plan
from lbtrain.recipe.targets import all_reached
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.progress import Progress
from lbtrain.runs.rows import EvalRow
from lbtrain.tasks import Task
from lbtrain.techniques import Techniques


def train(
    plan: Plan,
    task: Task,
    engine: Engine,
    techniques: Techniques,
    progress: Progress,
    checkpoints: Checkpoints,
    monitors: Monitors,
    faults: Faults,
    *,
    ended: bool = False,
) -> EvalRow:
    """Trains from `progress` to the end of the plan, or to the evaluation that reaches `stop_at`, and returns
    the last evaluation. A run that has `ended` before, as its summary would say, is only scored. Collective.

    Raises Preempted after a signal, when everything is saved; Diverged when a loss or a gradient is no longer
    finite.
    """
    evaluation, finished = None, ended or progress.examples >= plan.total_examples
    phase = techniques.batch.phase(progress)
    batches = start_phase(phase, task, engine, progress.examples)
    engine.model.train()
    try:
        while not finished:
            faults.at(progress.step, "training")
            start, lr = progress.examples, plan.lr(progress.examples) * phase.lr_factor
            for number in range(engine.accumulation):
                with monitors.waiting():
                    batch = next(batches)
                first = start + (number * engine.world_size + engine.rank) * phase.split.micro_batch_size
                batch = techniques.batch.adapted(batch, phase, first)
                losses = task.loss(engine.model, batch)
                faults.before_backward(losses.total)
                monitors.before_backward(MicroStep(batch, losses, start, phase))
                engine.backward(losses.total)
            monitors.before_update()
            faults.before_update(progress.step + 1, lr, start, phase)
            updated = engine.step(lr)
            progress = progress.after(phase.batch_size, updated=updated)
            techniques.after_update(progress.step, plan.ema_decay(phase))

            finished = progress.examples >= plan.total_examples
            due = partial(plan.due, start, progress.examples)
            to_log, to_score, to_save = map(due, (plan.log_every, plan.evaluate_every, plan.checkpoint_every))
            stopped = faults.after_update(updated, check_now=to_log or to_score or to_save)
            done = StepResult(progress, phase, lr)
            monitors.after_step(done, logged=to_log)
            improved = False
            with monitors.paused():
                # before a checkpoint, which keeps what is decided here
                coming = techniques.batch.phase(progress)
                if to_score:
                    faults.at(progress.step, "evaluation")
                    evaluation, pictures = evaluate(plan, task, engine, techniques, progress)
                    monitors.after_evaluation(done, evaluation, pictures)
                    finished = finished or all_reached(plan.recipe.stop_at, evaluation.metrics)
                    improved = checkpoints.best.improved(evaluation.metrics)
                if to_save or stopped or finished or improved:
                    faults.at(progress.step, "checkpoint")
                    wait = finished or stopped
                    save(plan, engine, techniques, progress, checkpoints, wait=wait, is_best=improved)
            if finished or stopped:
                faults.meet()  # the guards would end rank 0, which writes, with the first that leaves
            if stopped and not finished:
                never = " without resume=never" if plan.recipe.resume == "never" else ""
                raise Preempted(
                    f"The run was stopped by a signal after step {progress.step}. Everything is saved, and "
                    f"the same command{never} continues from there."
                )
            if coming != phase:
                phase, batches = coming, start_phase(coming, task, engine, progress.examples)
    except Diverged:
        checkpoints.wait()
        faults.meet()
        raise
    finally:
        faults.close()
        checkpoints.wait()
    return evaluation or evaluate(plan, task, engine, techniques, progress)[0]


def start_phase(phase: Phase, task: Task, engine: Engine, examples: int) -> Iterator[Any]:
    """Splits the steps from position `examples` on as `phase` says, and returns this rank's micro-batches
    from there on. Collective.
    """
    engine.accumulation = phase.split.accumulation
    regroup_ghost_batches(engine.model, phase.split.ranks_per_ghost, phase.bn_momentum)
    return task.batches(
        start=examples,
        micro_batch_size=phase.split.micro_batch_size,
        rank=engine.rank,
        world_size=engine.world_size,
        image_size=phase.image_size,
    )


def save(
    plan: Plan,
    engine: Engine,
    techniques: Techniques,
    progress: Progress,
    checkpoints: Checkpoints,
    *,
    wait: bool,
    is_best: bool,
) -> None:
    """Collective: all ranks give their part and rank 0 writes, while the others and the loop go on; rank 0 if
    it is not to `wait`.
    """
    state = engine.save()
    if state is not None:
        checkpoints.save(state, progress, plan.recipe_yaml, techniques.state(), is_best=is_best, wait=wait)
