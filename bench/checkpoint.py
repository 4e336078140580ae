"""What checkpoints cost: a minute of training with one save in it against one without, for ResNet-50.

    python -m bench.checkpoint          about three minutes; appends to results/checkpoint.csv

One thread. Turns of the same steps with a save at their start and without, alternating; a turn ends when the
file is written, fsynced and renamed. What the save adds to a turn is what it adds to a minute, so ten seconds
show it better than sixty would.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from bench import parser, rows, typed
from lbtrain import Recipe
from lbtrain.data import open_source
from lbtrain.data.stream import SampleStream
from lbtrain.launch.world import detect_world, leave_process_group, start_process_group
from lbtrain.plan.plan import make_plan
from lbtrain.run import build_bare_model, build_engine
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.progress import Progress

COMMAND = "python -m bench.checkpoint"


def main() -> None:
    flags = parser(COMMAND, __doc__, rounds=7)
    flags.add_argument("--model", default="resnet50")
    flags.add_argument("--batch-size", type=int, default=16)
    flags.add_argument("--image-size", type=int, default=64)
    flags.add_argument("--seconds", type=float, default=10, help="How long a turn takes, about.")
    options = flags.parse_args()
    torch.set_num_threads(1)
    device = start_process_group(detect_world())
    with tempfile.TemporaryDirectory() as folder:
        added = seconds_added(options, device, Path(folder))
    case = (
        f"a minute of {options.model} {options.image_size}x{options.image_size}, batch "
        f"{options.batch_size}, with one save"
    )
    row = rows.paired(
        "checkpoint",
        case,
        "no save",
        [60 + seconds for seconds in added],
        [60.0] * len(added),
        unit="s",
        target="<=1.02",
        command=typed(flags, options),
    )
    rows.write([row], "checkpoint")
    leave_process_group()


def seconds_added(options: argparse.Namespace, device: torch.device, folder: Path) -> list[float]:
    """By each round's save to a turn's steps; which of the two turns comes first alternates."""
    recipe = Recipe().vary(
        batch_size=options.batch_size, bn_batch_size=options.batch_size, model=dict(name=options.model),
        data=dict(name="synthetic", image_size=options.image_size),
    )  # fmt: skip
    plan = make_plan(recipe, 1)
    engine, _ = build_engine(plan, build_bare_model(recipe, plan, device), device)
    images, labels = (
        part.to(device)
        for part in open_source(recipe.data, train=True, seed=0).fetch(
            SampleStream(64, 0).block(0, options.batch_size)
        )
    )
    checkpoints = Checkpoints(folder, keep=2)

    def turn(steps: int, save: bool) -> float:
        started = time.perf_counter()
        for step in range(steps):
            engine.backward(torch.nn.functional.cross_entropy(engine.model(images), labels))
            engine.step(0.01)
            if save and not step:
                state = engine.save()
                assert state is not None
                checkpoints.save(state, Progress(0, 1), "")
        if device.type == "cuda":
            torch.cuda.synchronize()
        if save:
            checkpoints.wait()
        return time.perf_counter() - started

    turn(3, True)
    steps = max(1, round(3 * options.seconds / turn(3, False)))
    added = []
    for number in range(options.rounds):
        seconds = {save: turn(steps, save) for save in ((True, False) if number % 2 else (False, True))}
        added.append(seconds[True] - seconds[False])
    return added


if __name__ == "__main__":
    main()
