"""Seconds from a fault to the end of the job, for every fault that one machine can have.

    python -m tests.faults.times --rounds 2

Two ranks train digits with the default bound, or another `--fault-timeout`; one breaks, and the clock runs
until the last rank that can end has ended. Writes results/faults.csv and the table in docs/reliability.md.
The faults of hosts are in tests/faults/test_lost_hosts.py.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import rows
from lbtrain import Recipe
from tests.faults.jobs import Break, Job, left_behind
from tools.kit.publish import with_block

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
LOST, SAVED = 4, 75

FAULTS = {
    "kill -9 of rank 0 at start-up": (Break("start-up", (0,), signal.SIGKILL), LOST),
    "kill -9 of rank 1 at start-up": (Break("start-up", (1,), signal.SIGKILL), LOST),
    "kill -9 of rank 1 in the first step": (Break("first step", (1,), signal.SIGKILL), LOST),
    "kill -9 of rank 0 in an accumulation": (Break("accumulation", (0,), signal.SIGKILL), LOST),
    "kill -9 of rank 1 in an accumulation": (Break("accumulation", (1,), signal.SIGKILL), LOST),
    "kill -9 of rank 1 in an evaluation": (Break("evaluation", (1,), signal.SIGKILL), LOST),
    "kill -9 of rank 0 in a checkpoint": (Break("checkpoint", (0,), signal.SIGKILL), LOST),
    "an error of rank 1": (Break("first step", (1,), raises="OSError"), LOST),
    "SIGTERM to rank 0 in training": (Break("first step", (0,), signal.SIGTERM), SAVED),
    "SIGINT to rank 1 in an evaluation": (Break("evaluation", (1,), signal.SIGINT), SAVED),
    "SIGUSR1 to both ranks in an accumulation": (Break("accumulation", (0, 1), signal.SIGUSR1), SAVED),
    "SIGTERM to both ranks before training": (Break("building", (0, 1), signal.SIGTERM), SAVED),
    "SIGSTOP of rank 1": (Break("first step", (1,), signal.SIGSTOP), LOST),
    "SIGSTOP of rank 1 and its guard": (Break("accumulation", (1,), signal.SIGSTOP, guard_too=True), LOST),
}
"""Name -> (what happens, the exit code of the ranks that end by themselves)."""


def seconds_to_the_end(name: str, timeout: float) -> float:
    """From the fault to the end of the last rank that can end. Raises AssertionError where the job ends
    otherwise than it should.
    """
    broken, code = FAULTS[name]
    with tempfile.TemporaryDirectory() as folder:
        job = Job.start(Path(folder) / "job", f"fault_timeout={timeout:g}", broken=broken)
        try:
            able = [
                each for rank, each in enumerate(job.ranks) if not (broken.guard_too and rank in broken.ranks)
            ]
            while any(process.is_alive() for process in able):
                time.sleep(0.01)
            over = time.time() - job.broke_at
            for pid in left_behind(job.folder) if broken.guard_too else ():
                os.kill(pid, signal.SIGCONT)
            assert code in job.codes(timeout), f"{name}: ended with {job.codes(0)}\n{job.screen}"
        finally:
            job.end()
    return over


def measure(names: list[str], rounds: int, timeout: float) -> dict[str, list[float]]:
    """The seconds of every fault; those that are only found by waiting wait together, before the others."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        waiting = [name for name in names if FAULTS[name][0].number == signal.SIGSTOP]
        with ThreadPoolExecutor() as together:
            for name, seconds in zip(
                waiting, together.map(seconds_to_the_end, waiting, [timeout] * len(waiting)), strict=True
            ):
                found[name].append(seconds)
        for name in names:
            if name not in waiting:
                found[name].append(seconds_to_the_end(name, timeout))
    return found


def table(lines: list[dict[str, str]]) -> str:
    if not lines:
        return "Not measured."
    columns = ("case", "seconds", "longest", "bound", "n")
    cells = [
        ("fault", "job over after, s", "the longest, s", "bound, s", "n"),
        ("---",) * 5,
        *(tuple(map(line.get, columns)) for line in lines),
    ]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--fault-timeout", type=float, default=Recipe().fault_timeout)
    parser.add_argument(
        "--only", default="", help="faults whose names contain this; their rows are shown and not kept"
    )
    options = parser.parse_args()
    found = measure([name for name in FAULTS if options.only in name], options.rounds, options.fault_timeout)
    lines = [
        {
            "bench": "faults",
            "case": name,
            "seconds": f"{statistics.median(values):.1f}",
            "longest": f"{max(values):.1f}",
            "bound": f"{options.fault_timeout:g}",
            "n": str(len(values)),
            "command": (
                f"python -m tests.faults.times --rounds {options.rounds} --fault-timeout "
                f"{options.fault_timeout:g}"
            ),
        }
        for name, values in found.items()
    ]
    print(table(lines))
    if not options.only:
        rows.replace(lines, "faults")
        if rows.published():
            PAGE.write_text(with_block(PAGE.read_text(), "fault_times", table(rows.read("faults"))))


if __name__ == "__main__":
    main()
