"""An hour of training with a kill every minute, against the same run undisturbed.

    python -m tests.faults.soak --minutes 60 --kill-every 60

A launcher starts two ranks; from outside, one of the ranks (or all, or the launcher) is killed at the minute,
and the same command is given again, for an hour; then the run may end. It says whether the final weights are
equal bit for bit, and how the memory of rank 0 grows with its steps in the undisturbed run. The disturbed run
pauses in each step, so that it lasts the hour and leaves the machine to others; that changes no number.
Writes results/soak.csv.
"""

import argparse
import datetime
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bench.rows import RESULTS, replace
from tests.faults.jobs import children

JOB = ["-m", "tests.faults.soak_job"]
WORDS = [
    "batch_size=32",
    "bn_batch_size=8",
    "model.name=cifar_resnet8",
    "engine=ddp",
    "schedule.base_lr=0.01",
    "schedule.decay=none",
    "log_every=50it",
    "evaluate_every=1000it",
    "checkpoint.every=20it",
]
WARM_UP = 2000
"""Steps before which memory may grow: the allocator still finds its size."""


@dataclass
class Lives:
    """What happened to the disturbed run."""

    kills: int = 0
    unexpected: list[str] = field(default_factory=list)
    memory: list[tuple[float, int, float]] = field(default_factory=list)
    """(seconds of life, last logged step, resident KiB of rank 0)."""


def launch(run_dir: Path, steps: int, pause: float, port: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        f"--master_port={port}",
        *JOB,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SOAK_PAUSE": str(pause)}
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "screen").open("ab") as screen:
        return subprocess.Popen(
            [*command, *WORDS, f"duration={steps}it", f"run_dir={run_dir}"],
            env=environment,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
        )


def disturb(
    run_dir: Path,
    steps: int,
    pause: float,
    port: int,
    kill_every: float,
    minutes: float,
    generator: random.Random,
) -> Lives:
    """Runs until the run has finished, killing a part of it at every interval while the minutes last."""
    lives, end = Lives(), time.monotonic() + 60 * minutes
    while True:
        started, job = time.monotonic(), launch(run_dir, steps, pause, port)
        while job.poll() is None and (time.monotonic() < started + kill_every or started + kill_every > end):
            time.sleep(1)
        if job.poll() is None:
            lives.kills += 1
            _kill(job, generator.choice(["rank 0", "rank 1", "all ranks", "launcher"]))
        elif job.returncode == 0:
            return lives
        else:
            lives.unexpected.append(f"ended with {job.returncode} after {time.monotonic() - started:.0f} s")
        print(
            f"{datetime.datetime.now():%H:%M:%S}  kills {lives.kills}  newest checkpoint {newest(run_dir)}",
            *lives.unexpected[-1:],
            flush=True,
        )
        if len(lives.unexpected) > 10:
            raise SystemExit("it ends by itself: see " + str(run_dir / "screen"))


def _look(job: subprocess.Popen[bytes], run_dir: Path, age: float, lives: Lives) -> None:
    """Notes the memory of rank 0."""
    try:
        pages = int(Path(f"/proc/{min(children(job.pid))}/statm").read_text().split()[1])
        *_, last = (run_dir / "metrics.jsonl").read_text().splitlines()
        step = json.loads(last)["step"]
    except (OSError, ValueError, IndexError):
        return  # it is starting, or ending
    if pages:
        lives.memory.append((age, step, pages * os.sysconf("SC_PAGE_SIZE") / 2**10))


def _kill(job: subprocess.Popen[bytes], what: str) -> None:
    ranks = sorted(children(job.pid))
    victims = {"launcher": [job.pid], "all ranks": ranks}.get(what) or ranks[-1 if what == "rank 1" else 0 :][
        :1
    ]
    for pid in victims or [job.pid]:
        os.kill(pid, signal.SIGKILL)
    job.wait(timeout=120)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        if time.monotonic() > deadline:
            raise SystemExit(f"a rank outlived the kill of {what}")
        time.sleep(0.1)


def newest(run_dir: Path) -> str:
    return max((path.stem for path in (run_dir / "checkpoints").glob("step_*.pt")), default="none")


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / f"{newest(run_dir)}.pt", weights_only=True)["state_dict"]


def growth(memory: list[tuple[float, int, float]]) -> tuple[float, float, float]:
    """KiB a step, KiB a minute (least squares) and the KiB between the least and the most, all after the
    warm-up.
    """
    late = np.array([noted for noted in memory if noted[1] >= WARM_UP])
    if len(late) < 3:
        return float("nan"), float("nan"), float("nan")
    seconds, steps, resident = late.T
    return (
        float(np.polyfit(steps, resident, 1)[0]),
        float(np.polyfit(seconds, resident, 1)[0] * 60),
        float(np.ptp(resident)),
    )


def watch_undisturbed(run_dir: Path, steps: int, port: int) -> Lives:
    lives, started = Lives(), time.monotonic()
    job = launch(run_dir, steps, 0.0, port)
    while job.poll() is None:
        time.sleep(1)
        _look(job, run_dir, time.monotonic() - started, lives)
    if job.returncode:
        raise SystemExit(f"the undisturbed run ended with {job.returncode}: see {run_dir / 'screen'}")
    return lives


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=60, help="how long it is disturbed; the run must last longer"
    )
    parser.add_argument("--kill-every", type=float, default=60, help="seconds from a start to the kill")
    parser.add_argument(
        "--steps", type=int, default=0, help="length of the run; 0: a little more than fits into the minutes"
    )
    parser.add_argument(
        "--start-up",
        type=float,
        default=15,
        help="seconds that a start takes here, to find the steps that fit",
    )
    parser.add_argument(
        "--pause", type=float, default=0.2, help="seconds that the disturbed run sleeps in each step"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is killed")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    share = max(0.1, 1 - options.start_up / options.kill_every)
    steps = options.steps or math.ceil(options.minutes * 60 * share / options.pause / 100) * 100
    port = 27_000 + os.getpid() % 1000
    started = time.monotonic()
    print(f"{steps} steps; kills by seed {options.seed}", flush=True)
    with ThreadPoolExecutor() as beside:
        undisturbed = beside.submit(watch_undisturbed, options.out / "undisturbed", steps, port + 1)
        kills = options.kill_every, options.minutes, random.Random(options.seed)
        lives = disturb(options.out / "disturbed", steps, options.pause, port, *kills)
        minutes, alone = (time.monotonic() - started) / 60, undisturbed.result()
    ours, theirs = weights(options.out / "disturbed"), weights(options.out / "undisturbed")
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    per_step, per_minute, spread = growth(alone.memory)
    row = {
        "bench": "soak",
        "case": f"2 ranks, {steps} steps, a kill {options.kill_every:g} s after each start, "
        f"for {options.minutes:g} minutes",
        "minutes": f"{minutes:.1f}",
        "kills": lives.kills,
        "ended_by_itself": len(lives.unexpected),
        "weights_bit_equal": "yes" if same else "no",
        "undisturbed_minutes": f"{alone.memory[-1][0] / 60:.1f}",
        "memory_mib": f"{alone.memory[-1][2] / 1024:.0f}",
        "memory_after_step": WARM_UP,
        "memory_kib_per_step": f"{per_step:.4f}",
        "memory_kib_per_min": f"{per_minute:.1f}",
        "memory_kib_range": f"{spread:.0f}",
        "seed": options.seed,
        "command": f"python -m tests.faults.soak --minutes {options.minutes:g} "
        f"--kill-every {options.kill_every:g} --steps {steps} "
        f"--pause {options.pause:g} --seed {options.seed}",
    }
    replace([row], "soak")
    print(f"written to {RESULTS / 'soak.csv'}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
