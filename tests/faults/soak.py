"""An hour of training with a kill every minute, against the same run undisturbed.

    python -m tests.faults.soak --minutes 60 --kill-every 60

A launcher starts two ranks; from outside, one of the ranks (or all, or the launcher) is killed at the minute, and the same command is
given again. It says whether the final weights are equal bit for bit, and how the memory of a rank grows with its steps. The disturbed run
pauses in each step, so that it lasts the time and leaves the machine to others; that changes no number. Appends to results/soak.csv.
"""

import argparse
import datetime
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

from bench.rows import RESULTS, append
from tests.faults.jobs import children

JOB = ["-m", "tests.faults.soak_job"]
WORDS = [
    "batch_size=32", "bn_batch_size=8", "model.name=cifar_resnet8", "engine=ddp", "schedule.base_lr=0.01", "schedule.decay=none",
    "log_every=50it", "evaluate_every=1000it", "checkpoint.every=20it",
]  # fmt: skip


@dataclass
class Lives:
    """What happened to the disturbed run."""

    kills: int = 0
    unexpected: list[str] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    """(seconds of life, resident MiB of rank 0)."""


def launch(run_dir: Path, steps: int, pause: float, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", *JOB]
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


def disturb(run_dir: Path, steps: int, pause: float, port: int, kill_every: float, generator: random.Random) -> Lives:
    """Runs until the run has finished, killing a part of it at every interval."""
    lives = Lives()
    while True:
        started, job = time.monotonic(), launch(run_dir, steps, pause, port)
        while job.poll() is None and time.monotonic() - started < kill_every:
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


def _look(job: subprocess.Popen[bytes], age: float, lives: Lives) -> None:
    """Notes the memory of rank 0."""
    try:
        ranks = children(job.pid)
        pages = int(Path(f"/proc/{min(ranks)}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return  # it is ending
    lives.memory.append((int(age), pages * os.sysconf("SC_PAGE_SIZE") / 2**20))


def _kill(job: subprocess.Popen[bytes], what: str) -> None:
    ranks = sorted(children(job.pid))
    victims = {"launcher": [job.pid], "all ranks": ranks}.get(what) or ranks[-1 if what == "rank 1" else 0 :][:1]
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


def slope(points: list[tuple[int, float]], *, after: int) -> float:
    """MiB a minute of life, by least squares over what lies `after` seconds into it."""
    late = np.array([point for point in points if point[0] >= after])
    return float(np.polyfit(late[:, 0], late[:, 1], 1)[0] * 60) if len(late) > 2 else float("nan")


def watch_undisturbed(run_dir: Path, steps: int, port: int) -> Lives:
    lives, started = Lives(), time.monotonic()
    job = launch(run_dir, steps, 0.0, port)
    while job.poll() is None:
        time.sleep(1)
        _look(job, time.monotonic() - started, lives)
    if job.returncode:
        raise SystemExit(f"the undisturbed run ended with {job.returncode}: see {run_dir / 'screen'}")
    return lives


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="about how long the disturbed run lasts")
    parser.add_argument("--kill-every", type=float, default=60, help="seconds from a start to the kill")
    parser.add_argument("--steps", type=int, default=0, help="length of the run; 0: what about fits into the minutes")
    parser.add_argument("--start-up", type=float, default=20, help="seconds that a start takes here, to find the steps that fit")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds that the disturbed run sleeps in each step")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    share = max(0.1, 1 - options.start_up / options.kill_every)
    steps = options.steps or int(options.minutes * 60 * share / (options.pause + 0.05) // 100 * 100)
    port = 27_000 + os.getpid() % 1000
    started = time.monotonic()
    print(f"{steps} steps; kills by seed {options.seed}", flush=True)
    with ThreadPoolExecutor() as beside:
        undisturbed = beside.submit(watch_undisturbed, options.out / "undisturbed", steps, port + 1)
        lives = disturb(options.out / "disturbed", steps, options.pause, port, options.kill_every, random.Random(options.seed))
        minutes, alone = (time.monotonic() - started) / 60, undisturbed.result()
    ours, theirs = weights(options.out / "disturbed"), weights(options.out / "undisturbed")
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    row = {
        "bench": "soak",
        "case": f"2 ranks, {steps} steps, a kill {options.kill_every:g} s after each start",
        "minutes": f"{minutes:.1f}",
        "kills": lives.kills,
        "ended_by_itself": len(lives.unexpected),
        "weights_bit_equal": "yes" if same else "no",
        "undisturbed_minutes": f"{alone.memory[-1][0] / 60:.1f}",
        "memory_slope_mib_per_min": f"{slope(alone.memory, after=120):.3f}",
        "seed": options.seed,
        "command": f"python -m tests.faults.soak --kill-every {options.kill_every:g} --steps {steps} --seed {options.seed}",
    }
    append([row], "soak")
    print(f"written to {RESULTS / 'soak.csv'}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
