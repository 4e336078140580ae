"""Training speed against the peers' loops, in turns in one process (group).

    python -m bench.train                               every case; appends to results/train.csv
    python -m bench.train --cases single startup        some of them
    python -m bench.train --cases resnet18 --timm DIR   with timm's own loop; DIR is a clone of its repository

Cases: `single` (one process, ResNet-20, 32 x 32, batch 128, plain PyTorch loop), `ddp` (two gloo ranks, one
thread each, DistributedDataParallel), `deepspeed` and `accelerate` (the same two ranks through those engines,
against DistributedDataParallel and against that library's own minimal loop), `resnet18` and `resnet50` (one
process, 64 x 64, against every peer), `auto` (ResNet-18 so, ours with precision=auto and the plain loop in
fp32: what bf16 with channels_last saves where the CPU computes bf16 natively), `memory` (peak memory of
processes that train ResNet-18 with each of these loops), `startup` (how long `plan_for=` takes).
"""

import argparse
import re
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import output_of, parser, rows
from bench.peers import Job, Loop, accelerate_loop, by_hand, deepspeed_loop, timm_loop
from bench.turns import end_worker, in_turns, on_ranks

LONGEST_START = 3.0
COMMAND = "python -m bench.train"


AIM = ">=0.98"
"""Of our images/s over any peer's: first, or within 2 % of first."""


@dataclass(frozen=True)
class Case:
    job: Job
    engine: str
    ranks: int
    peers: tuple[str, ...]
    precision: str = "fp32"
    """Of our loop; peers train in fp32."""
    target: str = AIM


LOOPS: dict[str, Loop] = {
    "plain loop": by_hand,
    "hand-written DDP": by_hand,
    "accelerate loop": accelerate_loop,
    "DeepSpeed loop": deepspeed_loop,
}
SMALL, HALF = Job("cifar_resnet20", 32, 128, 4), Job("cifar_resnet20", 32, 64, 4)
ALL = ("plain loop", "accelerate loop", "DeepSpeed loop")
CASES = {
    "single": Case(SMALL, "ddp", 1, ("plain loop",)),
    "ddp": Case(HALF, "ddp", 2, ("hand-written DDP",)),
    "deepspeed": Case(HALF, "deepspeed", 2, ("hand-written DDP", "DeepSpeed loop")),
    "accelerate": Case(HALF, "accelerate", 2, ("hand-written DDP", "accelerate loop")),
    "resnet18": Case(Job("resnet18", 64, 32, 2), "ddp", 1, ALL),
    "resnet50": Case(Job("resnet50", 64, 16, 1), "ddp", 1, ALL),
    "auto": Case(Job("resnet18", 64, 32, 2), "ddp", 1, ("plain loop",), precision="auto", target=""),
}


def measure(name: str, timm_checkout: Path | None) -> list[rows.Row]:
    """One row per peer."""
    case = CASES[name]
    loops = {peer: LOOPS[peer] for peer in case.peers}
    if timm_checkout and case.ranks == 1:
        loops["timm train.py"] = partial(timm_loop, timm_checkout)
    seconds = (
        in_turns(case.job, case.engine, list(loops.values()), precision=case.precision)
        if case.ranks == 1
        else on_ranks("bench.train", name, ranks=case.ranks)
    )
    job, command = case.job, f"{COMMAND} --cases {name}" + (" --timm DIR" if "timm train.py" in loops else "")
    images = job.micro_batch_size * job.steps * case.ranks
    mine, *theirs = [[images / turn for turn in turns] for turns in seconds]
    own = f", precision={case.precision}" if case.precision != job.precision else ""
    title = (
        f"{name}, {job.model} {job.image_size}x{job.image_size}, {job.micro_batch_size} x {case.ranks}{own}"
    )
    return [
        rows.paired("train", title, peer, mine, rates, unit="images/s", target=case.target, command=command)
        for peer, rates in zip(loops, theirs, strict=True)
    ]


def worker(name: str) -> None:
    """One rank of a case on several."""
    case = CASES[name]
    end_worker(in_turns(case.job, case.engine, [LOOPS[peer] for peer in case.peers]))


def startup() -> rows.Row:
    """Seconds for a plan of six world sizes, and the three that a person should wait at most."""
    recipe = str(Path(__file__).parents[1] / "recipes/imagenet/resnet50_8k.py")
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        output_of([sys.executable, recipe, "plan_for=8,16,32,64,128,256"], timeout=300)
        seconds.append(time.perf_counter() - started)
    limit = [LONGEST_START] * 7
    command = f"{COMMAND} --cases startup"
    case, ours = "plan_for, six world sizes", seconds[1:]
    return rows.paired("train", case, "limit", ours, limit, unit="s", target="<=1.0", command=command)


def memory() -> list[rows.Row]:
    """Peak resident memory of fresh processes, ours and each peer's in turns."""
    peaks: dict[str, list[float]] = {who: [] for who in ("ours", *ALL)}
    for _ in range(3):
        for who, found in peaks.items():
            found.append(_peak(who))
    title, command = "memory, resnet18 64x64, 32 x 1", f"{COMMAND} --cases memory"
    mine = peaks.pop("ours")
    return [
        rows.paired("train", title, peer, mine, theirs, unit="MiB", target="<=1.05", command=command)
        for peer, theirs in peaks.items()
    ]


def _peak(who: str) -> float:
    command = [sys.executable, "-m", "bench.train", "--peak", who]
    return float(output_of(command, timeout=600).split()[-1])


def print_peak(who: str) -> None:
    """Trains a few steps in this process and prints the most memory it ever held, in MiB."""
    from lbtrain.launch.world import detect_world, leave_process_group, start_process_group

    job = Job("resnet18", 64, 32, 2)
    if who == "ours":
        in_turns(job, "ddp", [], rounds=1)
    else:
        start_process_group(detect_world())
        loop = LOOPS[who](job)
        for _ in range(2):
            next(loop)
    # Not getrusage's: a child that was forked from a large process inherits the peak of that one.
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    print(int(peak) / 1024, flush=True)
    leave_process_group()


def main() -> None:
    flags = parser(COMMAND, __doc__, cases=[*CASES, "memory", "startup"], timm=True)
    flags.add_argument("--worker", choices=list(CASES), help=argparse.SUPPRESS)
    flags.add_argument("--peak", choices=("ours", *ALL), help=argparse.SUPPRESS)
    options = flags.parse_args()
    if options.worker:
        worker(options.worker)
    elif options.peak:
        print_peak(options.peak)
    else:
        for case in options.cases:
            measured = (
                [startup()]
                if case == "startup"
                else memory()
                if case == "memory"
                else measure(case, options.timm)
            )
            rows.write(measured, "train")


if __name__ == "__main__":
    main()
