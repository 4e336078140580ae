"""What a start costs: a recipe of one step, from the command to its end, against a bare script that imports
the same libraries, in turns.

    python -m bench.startup

Processor time of all processes of a launch, the guards of its ranks included, because its wall time is that
of the machine's other work too. The bare script imports torch, torchvision, timm and TensorBoard, and
DeepSpeed under its launcher, and joins the process group; it builds no model, reads no data and writes
nothing. Below 1: lbtrain leaves Python's garbage collector off while it imports. Writes results/startup.csv.
"""

import contextlib
import ctypes
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import output_of, parser, typed
from bench.rows import Row, paired, write

ROUNDS = 6
PR_SET_CHILD_SUBREAPER = 36
"""Of Linux's prctl: orphans among a process's descendants become its children, and not init's."""
RECIPE = Path(__file__).parents[1] / "recipes/digits/digits.py"
ONE_STEP = ("duration=1it", "schedule.warmup=1it", "evaluate_every=1dur")
BARE = """
import torch, torchvision, timm, torch.utils.tensorboard
import torch.distributed as dist
{more}
dist.init_process_group("gloo", **{group})
dist.barrier()
dist.destroy_process_group()
"""
RANKS, ALONE = "{}", '{"store": dist.HashStore(), "rank": 0, "world_size": 1}'
SCRIPTS = Path(sys.executable).parent
CASES = {
    "python, one process": ([sys.executable], "", ALONE),
    "torchrun, two ranks": ([str(SCRIPTS / "torchrun"), "--nproc_per_node", "2"], "", RANKS),
    "deepspeed, two ranks": (
        [str(SCRIPTS / "deepspeed"), "--num_accelerators", "2"],
        "import deepspeed",
        RANKS,
    ),
}


def cpu_seconds(command: list[str], folder: Path) -> float:
    """User and system time of a command and all processes that it starts, also of those that it does not wait
    for.

    Raises RuntimeError if it fails, or one of the processes outlives it by a minute.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    with adopting_orphans():
        output_of(command, cwd=folder, env=environment, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Waits at its end for what was left running by processes that have ended, such as the guard of a rank:
    the kernel counts the time of a process when its parent waits for it.
    """
    prctl = ctypes.CDLL(None).prctl
    own = children()
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
        end = time.monotonic() + 60
        while orphans := children() - own:
            for process in orphans:
                os.waitpid(process, os.WNOHANG)
            if time.monotonic() > end:
                raise RuntimeError(f"processes {sorted(orphans)} did not end with their launch")
            time.sleep(0.01)
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def children() -> set[int]:
    """The process ids of this process's own children."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(number) for one in lists for number in one.read_text().split()}


def measure(case: str, rounds: int, command: str) -> Row:
    launcher, more, group = CASES[case]
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bare.py").write_text(BARE.format(more=more, group=group))
        for number in range(1 + rounds):
            run = [*launcher, str(RECIPE), *ONE_STEP, f"run_dir={folder}/run{number}"]
            ours.append(cpu_seconds(run, folder))
            bare.append(cpu_seconds([*launcher, str(folder / "bare.py")], folder))
    return paired(
        "startup", f"a recipe of one step, {case}", "the imports alone", ours[1:], bare[1:],
        unit="s of processor time", target="<=1.25", command=command,
    )  # fmt: skip


if __name__ == "__main__":
    flags = parser("python -m bench.startup", __doc__, cases=CASES, rounds=ROUNDS)
    options = flags.parse_args()
    for case in options.cases:
        write([measure(case, options.rounds, typed(flags, options, cases=case))], "startup")
