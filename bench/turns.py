"""lbtrain's real loop and other loops in turns, in one process (group), so that whatever else the machine
does falls on all of them.

lbtrain runs as a user runs it, with its records, logging and TensorBoard. Each time it writes a row, every
other loop takes as many steps on a model of its own.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from bench import output_of
from bench.peers import Job, Loop
from lbtrain import Recipe

ROUNDS = 15
_TURNS = "turns"
_FOLDER = "LBTRAIN_BENCH_FOLDER"


def recipe_for(job: Job, engine: str, rounds: int) -> Recipe:
    """`job` as a recipe: ghost batches of a rank's micro-batch, so that batch norm is the peers'."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    return Recipe().vary(
        engine=engine,
        batch_size=job.micro_batch_size * world_size,
        bn_batch_size=job.micro_batch_size,
        duration=f"{job.steps * (rounds + 1)}it",
        model=dict(name=job.model),
        data=dict(name="synthetic", image_size=job.image_size),
        schedule=dict(warmup="0ep", decay="none", base_lr=0.01, rule="none"),
        precision=job.precision,
        channels_last=job.channels_last,
        log_every=f"{job.steps}it",
        evaluate_every="1dur",
        checkpoint=dict(every="1dur"),
    )


@contextlib.contextmanager
def run_dir() -> Iterator[str]:
    """A run directory that is gone afterwards; one for all the ranks that `on_ranks` started."""
    with contextlib.ExitStack() as stack:
        shared = os.environ.get(_FOLDER)
        yield f"{shared or stack.enter_context(tempfile.TemporaryDirectory())}/run"


def in_turns(
    job: Job, engine: str, others: Sequence[Loop], rounds: int = ROUNDS, **changes: Any
) -> list[list[float]]:
    """Seconds per turn of lbtrain (its recipe with `changes`), then of each of `others`; the first turn, in
    which all warm up, left out.

    Every rank takes part.
    """
    from lbtrain.run import run
    from lbtrain.runs.records import Records
    from lbtrain.runs.rows import TrainRow

    seconds: list[list[float]] = [[] for _ in range(1 + len(others))]
    loops: list[Iterator[None]] = []
    write = Records.write
    clock = time.perf_counter()

    def write_and_give_turns(records: Any, row: Any) -> None:
        nonlocal clock
        write(records, row)
        if not isinstance(row, TrainRow):
            return
        seconds[0].append(time.perf_counter() - clock)
        loops.extend(loop(job) for loop in others[len(loops) :])
        for kept, loop in zip(seconds[1:], loops, strict=True):
            started = time.perf_counter()
            next(loop)
            kept.append(time.perf_counter() - started)
        clock = time.perf_counter()

    with run_dir() as folder, mock.patch.object(Records, "write", write_and_give_turns):
        run(recipe_for(job, engine, rounds).vary(**changes, run_dir=folder), "bench", on_screen=False)
    return [kept[1:] for kept in seconds]


def on_ranks(module: str, what: str, *, ranks: int) -> list[list[float]]:
    """What `in_turns` returns on rank 0 of so many gloo ranks of one thread each, all of which run `python -m
    MODULE --worker WHAT`.
    """
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(ranks),
        "-m",
        module,
        "--worker",
        what,
    ]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", _FOLDER: folder}
        output = output_of(launch, env=environment, timeout=1200)
    line = next(line for line in output.splitlines() if line.startswith(_TURNS))
    return list(json.loads(line.removeprefix(_TURNS)))


def end_worker(seconds: list[list[float]]) -> None:
    """The last word of each rank that `on_ranks` started."""
    from lbtrain.launch.world import leave_process_group

    if os.environ["RANK"] == "0":
        print(_TURNS, json.dumps(seconds), flush=True)
    leave_process_group()
