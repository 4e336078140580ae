"""The score of a model on its evaluation set."""

import time

from lbtrain.engines.protocol import Engine
from lbtrain.monitors import replaced_over_ranks
from lbtrain.plan.plan import Plan
from lbtrain.runs.progress import Progress
from lbtrain.runs.records import Pictures
from lbtrain.runs.rows import EvalRow
from lbtrain.tasks import Evaluation, Task
from lbtrain.techniques import Techniques


def evaluate(
    plan: Plan, task: Task, engine: Engine, techniques: Techniques, progress: Progress
) -> tuple[EvalRow, Pictures]:
    """Scores every example of the evaluation set once, and with the averaged weights too if there are any.
    Collective.
    """
    started = time.perf_counter()
    scored = score(plan, task, engine)
    metrics = dict(scored.metrics)
    if techniques.average:
        with techniques.average.in_place_of_the_weights():
            metrics |= {f"ema_{name}": value for name, value in score(plan, task, engine).metrics.items()}
    epoch, seconds = progress.examples / plan.train_examples, time.perf_counter() - started
    row = EvalRow(progress.step, progress.examples, epoch, metrics, seconds, replaced_over_ranks(engine))
    return row, scored.pictures


def score(plan: Plan, task: Task, engine: Engine) -> Evaluation:
    engine.model.eval()
    size = plan.recipe.validation_batch_size or plan.split.micro_batch_size
    scored = task.evaluate(
        engine.model, micro_batch_size=size, rank=engine.rank, world_size=engine.world_size
    )
    engine.model.train()
    return scored
