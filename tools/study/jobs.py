"""The runs of a study: a list of recipes with their overrides, trained one after the other in one launch,
with progress and resume.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from lbtrain.errors import RecipeError, UserError

from ..kit.progress import bar
from ..kit.start import launched

WORKER = launched("study.worker")


@dataclass(frozen=True)
class Job:
    """One run: a recipe file, the `key=value` words that change it (seed included), and the folder that keeps
    it.
    """

    recipe: str
    words: tuple[str, ...]
    run_dir: str

    @property
    def ended(self) -> bool:
        """Whether it finished, or diverged, which is a result too."""
        return any((Path(self.run_dir) / name).exists() for name in ("summary.json", "diverged.json"))


def check_names_differ(arms: Iterable[tuple[str, Path]]) -> None:
    """Raises RecipeError for two arms (folder of the runs, recipe file) of one folder: each would show the
    scores of the other's runs.
    """
    seen: dict[str, Path] = {}
    for name, path in arms:
        if name in seen:
            raise RecipeError(
                f"the arms of {seen[name]} and {path} would both keep their runs in the folder {name}: "
                "rename a recipe file"
            )
        seen[name] = path


def seeds_in_words(first: int, count: int) -> str:
    """As they are asked for on the command line."""
    return f"--seeds {count}" + (f" --first-seed {first}" if first else "")


def launch_in_words(first: int, count: int, launcher: str, ranks: int) -> str:
    """How runs were made, as a recipe's contract says it: the usual seeds go without saying."""
    seeds = f"seeds {first} to {first + count - 1}, " if first else ""
    return seeds + (f"{ranks} rank{'s' * (ranks > 1)} under {launcher}" if launcher != "python" else "1 rank")


def launch_command(launcher: str, ranks: int, worker_words: list[str]) -> list[str]:
    """The real launcher, as a user would type it."""
    bin_folder = Path(sys.executable).parent
    commands = {
        "deepspeed": [str(bin_folder / "deepspeed"), "--num_accelerators", str(ranks)],
        "accelerate": [
            str(bin_folder / "accelerate"),
            "launch",
            "--multi_gpu",
            "--num_processes",
            str(ranks),
        ],
        "torchrun": [str(bin_folder / "torchrun"), "--nproc_per_node", str(ranks)],
        "python": [sys.executable],
    }
    return [*commands[launcher], *WORKER, *worker_words]


def run_jobs(jobs: list[Job], out: Path, *, launcher: str, ranks: int) -> None:
    """Launches what is missing and shows the progress by the runs that end. Raises UserError if the launch
    fails.
    """
    if all(job.ended for job in jobs):
        return
    out.mkdir(parents=True, exist_ok=True)
    listed, log = out / "jobs.json", out / "launch.log"
    listed.write_text(json.dumps([asdict(job) for job in jobs], indent=1) + "\n")
    # No GPU: DeepSpeed is told so, or it would look for one; the exchange stays on this machine.
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"} if not _has_gpu() else dict(os.environ)
    with log.open("w") as file:
        started = subprocess.Popen(
            launch_command(launcher, ranks, [str(listed)]), stdout=file, stderr=file, env=environment
        )
        try:
            _watch(started, jobs)
        except KeyboardInterrupt:
            started.terminate()
            started.wait()
            raise
    if started.returncode or not all(job.ended for job in jobs):
        raise UserError(
            f"the launch ended with exit code {started.returncode}; the end of {log}:\n"
            + "\n".join(log.read_text().splitlines()[-15:])
        )


def _watch(started: "subprocess.Popen[bytes]", jobs: list[Job]) -> None:
    waiting = [job for job in jobs if not job.ended]
    with bar("runs", len(jobs), done=len(jobs) - len(waiting)) as tick:
        running = True
        while running:
            running = started.poll() is None
            time.sleep(0.5 if running else 0)
            for job in [job for job in waiting if job.ended]:
                waiting.remove(job)
                tick(job.run_dir)


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()
