"""Small two-rank jobs that break at a chosen point, and what became of them.

Ranks are forked from a process that has imported torch already, so that a job takes a second or two. A rank
breaks itself at a point that is reached at the same place in every run; to the others a signal from inside
looks like one from outside.
"""

import contextlib
import functools
import importlib
import json
import multiprocessing as mp
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import tests.odd_models  # noqa: F401, registers them in ranks too, whoever started the server that forks these
from lab.ranks import free_port

TIMEOUT = 18.0
"""fault_timeout of these jobs, in seconds."""

PATIENCE = 0.4 * TIMEOUT
"""For what must be gone once a job has ended: less than the silence after which a straggler would end by
itself.
"""

STEPS = 8
WORDS = [
    "batch_size=64", "bn_batch_size=8", "micro_batch_size=16", f"duration={STEPS}it",
    "model.name=cifar_resnet8", "engine=ddp", "schedule.base_lr=0.05", "schedule.base_batch_size=64",
    "schedule.warmup=4it", "log_every=1it", "evaluate_every=3it",
    "checkpoint.every=2it", f"fault_timeout={TIMEOUT}",
]  # fmt: skip

# Point -> (function, which of its calls on a rank). Two passes a step; evaluations after steps 3 and 6,
# checkpoints after 2, 4, 6.
POINTS = {
    "launch": ("lbtrain.faults.watchdog.Watchdog.__enter__", 1),
    "start-up": ("lbtrain.run.start_process_group", 1),
    "building": ("lbtrain.tasks.classification.build_model", 1),
    "first step": ("lbtrain.tasks.classification.Classification.loss", 1),
    "accumulation": ("lbtrain.tasks.classification.Classification.loss", 10),
    "evaluation": ("lbtrain.tasks.classification.Classification.evaluate", 1),
    "checkpoint": ("lbtrain.engines.ddp.DDPEngine.save", 2),
}


@dataclass(frozen=True)
class Break:
    """What happens at a point, on `ranks`: a signal to the rank itself, or an error that it raises."""

    point: str
    ranks: tuple[int, ...] = (1,)
    number: int = 0
    guard_too: bool = False
    guard_alone: bool = False
    raises: str = ""
    waits: bool = False
    """Until there is a file `go` beside the notes, a minute at most."""

    def happen(self) -> None:
        if self.guard_too or self.guard_alone:
            time.sleep(
                3
                # three beats: the hub knows this guard by now, and one that it never knew it would wait for
                # much longer
            )
        note(f"broke {time.time()}")
        if self.waits:
            go = Path(os.environ["NOTES"]).with_name("go")
            wait_until(go.exists, 60)
            return
        if self.raises:
            raise getattr(importlib.import_module("lbtrain.errors"), self.raises, OSError)(
                "broken on purpose"
            )
        if self.guard_too or self.guard_alone:
            for child in children(os.getpid()):
                os.kill(child, self.number)
        if not self.guard_alone:
            os.kill(os.getpid(), self.number)


def note(line: str) -> None:
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(line + "\n")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _plant(broken: Break) -> None:
    """Makes the chosen call of the point's function break first."""
    path, count = POINTS[broken.point]
    owner, name = _owner(path)
    original, calls = getattr(owner, name), iter(range(1, count + 1))

    @functools.wraps(original)
    def breaking(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) == count:
            broken.happen()
        return original(*args, **kwargs)

    setattr(owner, name, breaking)


def _owner(path: str) -> tuple[Any, str]:
    module, name = path.rsplit(".", 1)
    try:
        return importlib.import_module(module), name
    except ModuleNotFoundError:
        parent, inner = module.rsplit(".", 1)
        return getattr(importlib.import_module(parent), inner), name


def _rank(rank: int, world_size: int, port: int, folder: str, words: list[str], broken: Break | None) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", GLOO_SOCKET_IFNAME="lo", NOTES=f"{folder}/notes",
    )  # fmt: skip
    screen = os.open(f"{folder}/screen", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(screen, 1)
    os.dup2(screen, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which these tests may run, ignores it
    from lbtrain import Recipe, main

    if broken and rank in broken.ranks:
        _plant(broken)
    main(Recipe(), [*WORDS, f"run_dir={folder}/run", *words])


@dataclass
class Job:
    """A running or ended job in `folder`: its run directory `run`, and what its ranks printed."""

    folder: Path
    ranks: list[BaseProcess]

    @classmethod
    def start(cls, folder: Path, *words: str, broken: Break | None = None, world_size: int = 2) -> "Job":
        folder.mkdir(exist_ok=True)
        (folder / "screen").write_text("")
        context, port = _context(), free_port()
        ranks = [
            context.Process(target=_rank, args=(rank, world_size, port, str(folder), list(words), broken))
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        return cls(folder, ranks)

    def codes(self, seconds: float = 60) -> list[int | None]:
        """Exit codes by rank; None for one that has not ended within so many seconds from now."""
        end = time.monotonic() + seconds
        for process in self.ranks:
            process.join(max(0.0, end - time.monotonic()))
        return [process.exitcode for process in self.ranks]

    def end(self) -> None:
        for process in self.ranks:
            process.kill()
            process.join()
        for pid in left_behind(self.folder):  # a guard that was stopped and never woken
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def screen(self) -> str:
        return (self.folder / "screen").read_text()

    @property
    def broke_at(self) -> float:
        """When the first rank broke, by time.time()."""
        return min(
            float(line.split()[1])
            for line in (self.folder / "notes").read_text().splitlines()
            if line.startswith("broke")
        )

    def weights(self) -> dict[str, torch.Tensor]:
        newest = max((self.folder / "run/checkpoints").glob("step_*.pt"))
        content = torch.load(newest, weights_only=True)
        assert content["progress"]["step"] == STEPS
        return content["state_dict"]

    def losses(self) -> list[float]:
        rows = [json.loads(line) for line in (self.folder / "run/metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows]


def left_behind(folder: Path) -> list[int]:
    """Processes that still belong to a job in `folder`: its ranks, their guards and loaders."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"NOTES={folder}/".encode() in variables:
            found.append(int(process.name))
    return found


@functools.cache
def _context() -> Any:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["lab.preload", "tests.faults.jobs"])
    return context


def wait_until(reached: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
