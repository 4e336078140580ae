"""Training speed against loops written by hand, in turns in one process (group).

    python -m bench.train                     every case, about 6 minutes on two cores; appends to results/train.csv
    python -m bench.train --cases startup     some of them

Cases: `single` (one process, ResNet-20, 32 x 32, batch 128, plain PyTorch loop), `ddp` (two gloo ranks, one thread each,
DistributedDataParallel), `deepspeed` and `accelerate` (the same two ranks through those engines), `startup` (how long `plan_for=` takes).

lbtrain's real loop runs, with its records, logging and TensorBoard. Each time it writes a row, the other loop takes as many steps on its
own model: turns of about a second, so that whatever else the machine does falls on both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from bench import rows

BATCH_SIZE, WINDOW, ROUNDS = 128, 8, 21
TARGETS = {"single": ">=0.97", "ddp": ">=0.97", "deepspeed": ">=0.95", "accelerate": ">=0.95"}
LONGEST_START = 3.0
COMMAND = "python -m bench.train"

Pairs = tuple[list[float], list[float]]


def by_hand() -> Iterator[None]:
    """The loop that anyone would write: SGD, DistributedDataParallel with its defaults where there are ranks. WINDOW steps a turn."""
    import timm
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch.nn.parallel import DistributedDataParallel

    import lbtrain.nn  # noqa: F401 registers cifar_resnet20 with timm

    world_size = dist.get_world_size()
    model = timm.create_model("cifar_resnet20", num_classes=1000)
    if world_size > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images, labels = torch.randn(64, 3, 32, 32), torch.randint(0, 1000, (64,))
    while True:
        for _ in range(WINDOW):
            picked = torch.randint(0, 64, (BATCH_SIZE // world_size,))
            loss = F.cross_entropy(model(images[picked]), labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()
        yield


def in_turns(engine: str) -> Pairs:
    """Images/s of both loops, turn by turn; the first turn, in which both warm up, left out. Every rank takes part."""
    from lbtrain import Recipe
    from lbtrain.main import run
    from lbtrain.records import Records, TrainRow

    mine: list[float] = []
    theirs: list[float] = []
    write, clock = Records.write, [time.perf_counter()]
    other: list[Iterator[None]] = []

    def write_and_take_turns(records: Any, row: Any) -> None:
        write(records, row)
        if not isinstance(row, TrainRow):
            return
        now = time.perf_counter()
        mine.append(WINDOW * BATCH_SIZE / (now - clock[0]))
        other.append(other.pop() if other else by_hand())
        next(other[0])
        clock[0] = time.perf_counter()
        theirs.append(WINDOW * BATCH_SIZE / (clock[0] - now))

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Records, "write", write_and_take_turns):
        run(recipe_of(engine, Recipe(), f"{folder}/run"), "bench", on_screen=False)
    return mine[1:], theirs[1:]


def recipe_of(engine: str, recipe: Any, run_dir: str) -> Any:
    return recipe.vary(
        engine=engine,
        batch_size=BATCH_SIZE,
        bn_batch_size=BATCH_SIZE // int(os.environ.get("WORLD_SIZE", 1)),
        duration=f"{WINDOW * (ROUNDS + 1)}it",
        model=dict(name="cifar_resnet20"),
        data=dict(name="synthetic", image_size=32),
        schedule=dict(warmup="0ep", decay="none", base_lr=0.01, rule="none"),
        log_every=f"{WINDOW}it",
        run_dir=run_dir,
    )


def worker(case: str) -> None:
    """One rank of a two-rank case; rank 0 prints the pairs."""
    from lbtrain.cluster.launch import leave_process_group

    mine, theirs = in_turns(case)
    if os.environ["RANK"] == "0":
        print("pairs", json.dumps([mine, theirs]), flush=True)
    leave_process_group()


def two_ranks(case: str) -> Pairs:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "bench.train", "--worker", case]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    output = subprocess.run(launch, env=environment, check=True, capture_output=True, text=True, timeout=1200).stdout
    line = next(line for line in output.splitlines() if line.startswith("pairs "))
    mine, theirs = json.loads(line.removeprefix("pairs "))
    return mine, theirs


def startup() -> Pairs:
    """Seconds for a plan of six world sizes, and the three that a person should wait at most."""
    recipe = str(Path(__file__).parents[1] / "recipes" / "resnet50_8k.py")
    plan = [sys.executable, recipe, "plan_for=8,16,32,64,128,256"]
    seconds = [_seconds(plan) for _ in range(8)][1:]
    return seconds, [LONGEST_START] * len(seconds)


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def measure(case: str) -> rows.Row:
    command = f"{COMMAND} --cases {case}"
    if case == "startup":
        mine, theirs = startup()
        return rows.paired("train", "plan_for, six world sizes", "limit", mine, theirs, unit="s", target="<=1.0", command=command)
    mine, theirs = in_turns("ddp") if case == "single" else two_ranks(case)
    peer = "plain loop" if case == "single" else "hand-written DDP"
    name = f"{case}, ResNet-20 32x32, batch {BATCH_SIZE}, {1 if case == 'single' else 2} process(es)"
    return rows.paired("train", name, peer, mine, theirs, unit="images/s", target=TARGETS[case], command=command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=[*TARGETS, "startup"], default=[*TARGETS, "startup"])
    parser.add_argument("--worker", choices=list(TARGETS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    for case in options.cases:
        rows.write([measure(case)], "train")


if __name__ == "__main__":
    main()
