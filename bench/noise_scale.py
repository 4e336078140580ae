"""What measuring the gradient noise scale costs: every other step of one run is measured, in one process of
one thread.

Processor time: what other processes take of the machine's time does not count, and with one thread nothing of
ours is missed. One run for both kinds of step: two runs in one process differ by how their memory happens to
lie, by more than what is looked for.

    python -m bench.noise_scale        every case, about two minutes; appends to results/noise_scale.csv

Cases: `accumulated` (ResNet-20, 32 x 32, four micro-batches of 32: hooks on the parameters) and `split` (one
micro-batch of 128: a quarter of it is passed twice), layers included. What a measured step takes longer is
spread over as many steps as the case's name says.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch

from bench import parser, processor_ms, rows
from lbtrain import Recipe
from lbtrain.launch.world import detect_world, start_process_group
from lbtrain.monitors import MicroStep, NoiseMonitor, StepResult
from lbtrain.plan.plan import make_plan
from lbtrain.plan.precision import set_gpu_arithmetic
from lbtrain.run import build_bare_model, build_engine
from lbtrain.runs.progress import Progress
from lbtrain.tasks import create_task

COMMAND = "python -m bench.noise_scale"
CASES = {"accumulated, every step": (32, 1), "split, every 20 steps": (128, 20)}
"""Name: (micro-batch, measured every so many steps)."""
ROUNDS = 60
UNMEASURED, TARGET = "the same step unmeasured", "<=1.02"


def stepper(micro: int, **changes: Any) -> Callable[[], None]:
    """A function that makes one step as the loop does, of a recipe with `changes`; every second one is
    measured.
    """
    settings: dict[str, Any] = dict(
        batch_size=128,
        bn_batch_size=32,
        micro_batch_size=micro,
        model=dict(name="cifar_resnet20"),
        data=dict(name="synthetic", image_size=32),
        measure=dict(noise_scale="2it", layers=True),
    )
    recipe = Recipe().vary(**(settings | changes))
    plan = make_plan(recipe, 1)
    device = start_process_group(detect_world())
    set_gpu_arithmetic(recipe)
    engine, optimizer = build_engine(plan, build_bare_model(recipe, plan, device), device)
    task = create_task(recipe, device)
    monitor = NoiseMonitor(plan, task, engine, optimizer, earlier=[])
    batches = task.batches(start=0, micro_batch_size=micro, rank=0, world_size=1)
    kept = [next(batches) for _ in range(plan.split.accumulation)]
    steps = itertools.count()
    engine.model.train()

    def step() -> None:
        number = next(steps)
        examples = number * recipe.batch_size
        for batch in kept:
            losses = task.loss(engine.model, batch)
            monitor.before_backward(MicroStep(batch, losses, examples, plan.phases[0]))
            engine.backward(losses.total)
        monitor.before_update()
        engine.step(0.01)
        for _ in monitor.after_step(
            StepResult(Progress(examples + recipe.batch_size, number + 1), plan.phases[0], 0.01)
        ):
            pass

    return step


def costs(
    step: Callable[[], None], every: int, milliseconds: Callable[[Callable[[], None]], float], rounds: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of a step where one in `every` is measured, and where none is."""
    for _ in range(4):
        step()
    on, off = [], []
    for _ in range(rounds):
        plain, measured = milliseconds(step), milliseconds(step)
        on.append(plain + (measured - plain) / every)
        off.append(plain)
    return on, off


def in_turns(case: str) -> rows.Row:
    micro, every = CASES[case]
    on, off = costs(stepper(micro), every, processor_ms, ROUNDS)
    line = f"{COMMAND} --cases '{case}'"
    return rows.paired(
        "noise_scale", case, UNMEASURED, on, off, unit="ms a step", target=TARGET, command=line
    )


def main() -> None:
    flags = parser(COMMAND, __doc__, cases=CASES)
    options = flags.parse_args()
    torch.set_num_threads(1)
    for case in options.cases:
        rows.write([in_turns(case)], "noise_scale")


if __name__ == "__main__":
    main()
