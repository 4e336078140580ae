"""Training speed against the peers' loops, in turns in one process (group).

    python -m bench.train                               every case; appends to results/train.csv
    python -m bench.train --cases single startup        some of them
    python -m bench.train --cases resnet18 --timm DIR   with timm's own loop beside (DIR: a clone of timm's repository, for its train.py)

Cases: `single` (one process, ResNet-20, 32 x 32, batch 128, plain PyTorch loop), `ddp` (two gloo ranks, one thread each,
DistributedDataParallel), `deepspeed` and `accelerate` (the same two ranks through those engines, against DistributedDataParallel and
against that library's own minimal loop), `resnet18` and `resnet50` (one process, 64 x 64, against every peer), `memory` (peak memory of a
process that trains ResNet-18, against the plain loop's), `startup` (how long `plan_for=` takes).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import rows
from bench.peers import Job, Loop, accelerate_loop, by_hand, deepspeed_loop, timm_loop
from bench.turns import ROUNDS, in_turns

LONGEST_START = 3.0
COMMAND = "python -m bench.train"


@dataclass(frozen=True)
class Case:
    """`peers`: name of the loop and the bound on our images/s over its."""

    job: Job
    engine: str
    ranks: int
    peers: dict[str, str]
    rounds: int = ROUNDS


LOOPS: dict[str, Loop] = {
    "plain loop": by_hand,
    "hand-written DDP": by_hand,
    "accelerate loop": accelerate_loop,
    "DeepSpeed loop": deepspeed_loop,
}
SMALL, HALF = Job("cifar_resnet20", 32, 128, 8), Job("cifar_resnet20", 32, 64, 8)
ALL = {"plain loop": ">=0.98", "accelerate loop": ">=0.98", "DeepSpeed loop": ">=0.98"}
CASES = {
    "single": Case(SMALL, "ddp", 1, {"plain loop": ">=0.97"}),
    "ddp": Case(HALF, "ddp", 2, {"hand-written DDP": ">=0.97"}),
    "deepspeed": Case(HALF, "deepspeed", 2, {"hand-written DDP": ">=0.95", "DeepSpeed loop": ">=0.98"}),
    "accelerate": Case(HALF, "accelerate", 2, {"hand-written DDP": ">=0.95", "accelerate loop": ">=0.98"}),
    "resnet18": Case(Job("resnet18", 64, 32, 2), "ddp", 1, ALL, rounds=15),
    "resnet50": Case(Job("resnet50", 64, 16, 1), "ddp", 1, ALL, rounds=15),
}


def measure(name: str, timm_checkout: Path | None) -> list[rows.Row]:
    """One row per peer."""
    case = CASES[name]
    loops = {peer: LOOPS[peer] for peer in case.peers}
    if timm_checkout and case.ranks == 1:
        loops["timm train.py"] = timm_loop(timm_checkout)
    seconds = in_turns(case.job, case.engine, list(loops.values()), case.rounds) if case.ranks == 1 else on_ranks(name)
    job, command = case.job, f"{COMMAND} --cases {name}"
    images = job.micro_batch_size * job.steps * case.ranks
    mine, *theirs = [[images / turn for turn in turns] for turns in seconds]
    title = f"{name}, {job.model} {job.image_size}x{job.image_size}, {job.micro_batch_size} x {case.ranks}"
    targets = case.peers | {"timm train.py": ">=0.98"}
    return [
        rows.paired("train", title, peer, mine, rates, unit="images/s", target=targets[peer], command=command)
        for peer, rates in zip(loops, theirs, strict=True)
    ]


def on_ranks(name: str) -> list[list[float]]:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(CASES[name].ranks),
        "-m",
        "bench.train",
        "--worker",
        name,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    output = subprocess.run(launch, env=environment, check=True, capture_output=True, text=True, timeout=1200).stdout
    line = next(line for line in output.splitlines() if line.startswith("turns "))
    return list(json.loads(line.removeprefix("turns ")))


def worker(name: str) -> None:
    """One rank of a case on several; rank 0 prints the seconds."""
    from lbtrain.cluster.launch import leave_process_group

    case = CASES[name]
    seconds = in_turns(case.job, case.engine, [LOOPS[peer] for peer in case.peers], case.rounds)
    if os.environ["RANK"] == "0":
        print("turns", json.dumps(seconds), flush=True)
    leave_process_group()


def startup() -> rows.Row:
    """Seconds for a plan of six world sizes, and the three that a person should wait at most."""
    recipe = str(Path(__file__).parents[1] / "recipes" / "resnet50_8k.py")
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        subprocess.run([sys.executable, recipe, "plan_for=8,16,32,64,128,256"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    limit = [LONGEST_START] * 7
    command = f"{COMMAND} --cases startup"
    return rows.paired("train", "plan_for, six world sizes", "limit", seconds[1:], limit, unit="s", target="<=1.0", command=command)


def memory() -> rows.Row:
    """Peak resident memory of fresh processes, ours and the plain loop's in turns."""
    mine, theirs = [], []
    for _ in range(3):
        mine.append(_peak("ours"))
        theirs.append(_peak("plain"))
    command = f"{COMMAND} --cases memory"
    return rows.paired("train", "memory, resnet18 64x64, 32 x 1", "plain loop", mine, theirs, unit="MiB", target="<=1.05", command=command)


def _peak(who: str) -> float:
    command = [sys.executable, "-m", "bench.train", "--peak", who]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    return float(output.split()[-1])


def print_peak(who: str) -> None:
    """Trains a few steps in this process and prints the most memory it ever held, in MiB."""
    job = Job("resnet18", 64, 32, 2)
    if who == "ours":
        in_turns(job, "ddp", [], rounds=3)
    else:
        loop = by_hand(job)
        for _ in range(4):
            next(loop)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*CASES, "memory", "startup"]
    parser.add_argument("--cases", nargs="*", choices=every, default=every, help="(default: all)")
    parser.add_argument("--timm", type=Path, metavar="DIR", help="a clone of timm's repository: its train.py takes part")
    parser.add_argument("--worker", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--peak", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
    elif options.peak:
        print_peak(options.peak)
    else:
        for case in options.cases:
            measured = [startup()] if case == "startup" else [memory()] if case == "memory" else measure(case, options.timm)
            rows.write(measured, "train")


if __name__ == "__main__":
    main()
