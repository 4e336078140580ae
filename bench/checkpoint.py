"""What checkpoints cost: seconds of training with one save a minute against none, in turns, for ResNet-50.

python -m bench.checkpoint
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

from bench import rows
from lbtrain import Recipe, optim
from lbtrain.checkpoint import Checkpoints, Progress
from lbtrain.data import facts, open_source
from lbtrain.engines.ddp import DDPEngine
from lbtrain.nn import convert_to_ghost_batch_norm
from lbtrain.plan import make_plan
from lbtrain.sampling import SampleStream
from lbtrain.tasks.classification import build_model

COMMAND = "python -m bench.checkpoint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--minute", type=float, default=60, help="seconds of training in a turn; a save falls into every other turn")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        with_save, without = in_turns(options, device, Path(folder))
    case = f"{options.model}, batch {options.batch_size}, a save every {options.minute:g} s"
    command = f"{COMMAND} --model {options.model} --batch-size {options.batch_size} --minute {options.minute:g} --rounds {options.rounds}"
    rows.write(
        [rows.paired("checkpoint", case, "no save", with_save, without, unit="s/step", target="<=1.02", command=command)], "checkpoint"
    )
    dist.destroy_process_group()


def in_turns(options: argparse.Namespace, device: torch.device, folder: Path) -> tuple[list[float], list[float]]:
    """Seconds a step of each round, with a save and without; which of the two comes first alternates."""
    recipe = Recipe().vary(
        batch_size=options.batch_size, bn_batch_size=options.batch_size, model=dict(name=options.model), data=dict(name="synthetic")
    )
    plan = make_plan(recipe, 1)
    model = build_model(recipe, facts(recipe.data)).to(device)
    convert_to_ghost_batch_norm(model, plan.bn_batch_size, momentum=recipe.bn_momentum)
    engine = DDPEngine(plan, model, optim.create_optimizer(recipe.optimizer, model), device)
    images, labels = (
        part.to(device) for part in open_source(recipe.data, train=True, seed=0).fetch(SampleStream(64, 0).block(0, options.batch_size))
    )
    checkpoints = Checkpoints(folder, keep=2)

    def turn(save: bool) -> float:
        started, steps = time.perf_counter(), 0
        while not steps or time.perf_counter() - started < options.minute:
            engine.backward(torch.nn.functional.cross_entropy(engine.model(images), labels))
            engine.step(0.01)
            if save and not steps:
                state = engine.save()
                assert state is not None
                checkpoints.save(state, Progress(0, 1), "")
            steps += 1
            if device.type == "cuda":
                torch.cuda.synchronize()
        if save:
            checkpoints.wait()
        return (time.perf_counter() - started) / steps

    turn(True)
    pairs = []
    for number in range(options.rounds):
        order = (True, False) if number % 2 else (False, True)
        seconds = {save: turn(save) for save in order}
        pairs.append((seconds[True], seconds[False]))
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
