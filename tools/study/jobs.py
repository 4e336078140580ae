"""The runs of a study: a list of recipes with their overrides, trained one after the other in one launch,
with progress and resume.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lbtrain.data import dataset_index
from lbtrain.errors import LaunchError, RecipeError, UserError
from lbtrain.launch.variables import number
from lbtrain.plan.plan import Plan, make_plan
from lbtrain.recipe import SAME_SCORE, Recipe, as_text, differences
from lbtrain.recipe.files import find_recipe, load_recipe
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.files import read_object
from lbtrain.runs.legs import changed_keys

from ..kit.progress import bar
from ..kit.start import launched

WORKER = launched("study.worker")
PLACES = {"data.root", "data.validation_root", "data.train_files", "data.validation_files"}
"""Keys that may change where the images stay the same."""
LAUNCHERS = ("deepspeed", "accelerate", "torchrun", "python")


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
        """Whether it finished, or diverged, which is a result too. Where the summary is damaged, the run is
        asked for again, and writes it.
        """
        with contextlib.suppress(OSError, ValueError):
            return bool(read_object(Path(self.run_dir) / "summary.json", {}))
        return (Path(self.run_dir) / "diverged.json").exists()

    @property
    def unseeded(self) -> tuple[str, ...]:
        """The words without the seed."""
        return tuple(word for word in self.words if not word.startswith("seed="))

    def load(self) -> Recipe:
        """Raises RecipeError."""
        return load_recipe(Path(self.recipe)).with_overrides(self.words)


@dataclass(frozen=True)
class Launch:
    """How the runs of a study are made: with which seeds, on how many ranks, and where they go."""

    seeds: range
    launcher: str
    ranks: int
    out: Path
    evaluations: int = 1
    """The score of a run is the median of so many evaluations, its last ones."""

    @staticmethod
    def add_options(
        parser: argparse.ArgumentParser,
        *,
        words: str = "A recipe file, and overrides of it.",
        launcher: str,
        ranks: int,
        seeds: int,
        out: str,
        scored: bool = True,
    ) -> None:
        """The options of every command that trains, with these defaults, and the `words` that say what;
        `scored` by the metric of a task.
        """
        add = parser.add_argument
        add("words", nargs="+", metavar="RECIPE|key=value", help=words)
        add("--seeds", type=int, default=seeds, help=f"The number of seeds (default {seeds}).")
        add("--first-seed", type=int, default=0, help="The first seed (default %(default)s).")
        add("--launcher", choices=LAUNCHERS, default=launcher, help=f"The launcher (default {launcher}).")
        add("--ranks", type=int, default=ranks, help=f"Processes on this machine (default {ranks}).")
        add("--out", type=Path, default=Path(out), help=f"The folder for runs and report (default {out}).")
        parser.set_defaults(evaluations=1)
        if scored:
            help = "Score a run by the median of its last N evaluations (default 1; Goyal et al. 2017: 5)."
            add("--evaluations", type=int, metavar="N", help=help)

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Launch":
        """Raises RecipeError where no run would be made."""
        for name in ("seeds", "ranks", "evaluations"):
            if getattr(options, name) < 1:
                raise RecipeError(f"--{name} {getattr(options, name)} must be at least 1")
        if options.launcher == "python" and options.ranks > 1:
            raise RecipeError(
                f"--ranks {options.ranks} needs a launcher: add --launcher torchrun or deepspeed"
            )
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        return cls(seeds, options.launcher, options.ranks, options.out, options.evaluations)

    def __str__(self) -> str:
        """As a recipe's contract says it: the usual seeds go without saying."""
        ranks = f"{self.ranks} rank{'s' * (self.ranks > 1)} under {self.launcher}"
        seeds = f"seeds {self.seeds[0]} to {self.seeds[-1]}, " if self.seeds[0] else ""
        return seeds + (ranks if self.launcher != "python" else "1 rank")

    def train(self, jobs: Sequence[Job]) -> None:
        """Trains what is missing. Raises RecipeError, before anything is launched, for runs in --out that are
        of other recipes and for plans that are rejected, and UserError if the launch fails.
        """
        if number(os.environ, "WORLD_SIZE", 1) > 1:
            raise LaunchError(
                "start this without a launcher: it launches its runs itself (--launcher, --ranks)"
            )
        check_unchanged(jobs)
        if missing := [job for job in jobs if not job.ended]:
            self.check_plans(missing)
            run_jobs(jobs, self.out, launcher=self.launcher, ranks=self.ranks)

    def plan_of(self, recipe: Recipe) -> Plan:
        """Of a run made this way. Raises RecipeError."""
        own = self.launcher if self.launcher in ("deepspeed", "accelerate") else "ddp"
        return make_plan(recipe, self.ranks, engine=recipe.engine_under(own))

    def check_plans(self, jobs: Iterable[Job]) -> None:
        """Raises RecipeError, naming what can be trained, if the plan of a job is rejected."""
        outcomes: dict[str, str] = {}
        # Jobs that differ in their seed alone have one plan.
        for job in {(job.recipe, job.unseeded): job for job in jobs}.values():
            recipe = job.load()
            name = f"{Path(job.recipe).stem} at batch size {recipe.batch_size}"
            try:
                self.plan_of(recipe)
                outcomes.setdefault(name, "")
            except RecipeError as error:
                outcomes[name] = str(error)
        if rejected := {name: reason for name, reason in outcomes.items() if reason}:
            valid = ", ".join(name for name in outcomes if name not in rejected) or "none of the others"
            reasons = "; ".join(f"{name}: {reason}" for name, reason in rejected.items())
            raise RecipeError(f"{reasons}. What can be trained: {valid}.")


def split_words(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files of recipes (paths, or names of shipped ones) and `key=value` overrides, as they stand on one
    command line. Raises RecipeError where there is no recipe.
    """
    overrides = [word for word in words if "=" in word and not Path(word).is_file()]
    recipes = [find_recipe(word) for word in words if word not in overrides]
    if not recipes:
        raise RecipeError(f"{' '.join(words)}: name a recipe file too")
    return recipes, overrides


def one_recipe(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The same for a command that takes one recipe. Raises RecipeError for another number of them."""
    (path, *more), overrides = split_words(words)
    if more:
        raise RecipeError(f"{more[0]}: this command takes one recipe")
    return path, overrides


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


def check_unchanged(jobs: Iterable[Job]) -> None:
    """Raises RecipeError if --out holds a run of another recipe than that of its job: it would be counted as
    what it is not. So would one that is scored elsewhere, or ended early.
    """
    for job in jobs:
        directory = RunDirectory(Path(job.run_dir))
        if not directory.holds_run():
            continue
        before, now = directory.recipe(), job.load()
        changed = changed_keys(before, now, SAME_SCORE | PLACES)
        moved = [each for each in differences(before, now) if each[0] in PLACES]
        if moved and _holds_other_images(directory, now):
            key, old, new = moved[0]
            changed.append(f"{key} was {as_text(old)}, is {as_text(new)}, with other images")
        if changed:
            raise RecipeError(
                f"{job.run_dir} holds a run of another recipe ({'; '.join(changed)}): choose another --out, "
                "undo the change, or delete the run"
            )


def _holds_other_images(directory: RunDirectory, recipe: Recipe) -> bool:
    """Whether the data set of `recipe` is not the one of the run, which may have been moved."""
    known = directory.read("fingerprint.json", {})
    parts = dataset_index(recipe.data).parts().items()
    return any(known.get(f"data: {name}", text) != text for name, text in parts)


def launch_command(launcher: str, ranks: int, words: list[str]) -> list[str]:
    """The real launcher, as a user would type it."""
    scripts = Path(sys.executable).parent
    commands = {
        "deepspeed": [str(scripts / "deepspeed"), "--num_accelerators", str(ranks)],
        "accelerate": [str(scripts / "accelerate"), "launch", "--multi_gpu", "--num_processes", str(ranks)],
        "torchrun": [str(scripts / "torchrun"), "--nproc_per_node", str(ranks)],
        "python": [sys.executable],
    }
    return [*commands[launcher], *WORKER, *words]


def run_jobs(jobs: Sequence[Job], out: Path, *, launcher: str, ranks: int) -> None:
    """Launches what is missing and shows the progress by the runs that end. Raises UserError if the launch
    fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    listed, log = out / "jobs.json", out / "launch.log"
    listed.write_text(json.dumps([asdict(job) for job in jobs], indent=1) + "\n", encoding="utf-8")
    # No GPU: DeepSpeed is told so, or it would look for one; the exchange stays on this machine.
    without_gpu = {} if Path("/dev/nvidiactl").exists() else {"DS_ACCELERATOR": "cpu"}
    with log.open("w", encoding="utf-8") as file:
        started = subprocess.Popen(
            launch_command(launcher, ranks, [str(listed)]),
            stdout=file,
            stderr=file,
            env={**os.environ, **without_gpu},
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
            + "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        )


def _watch(started: "subprocess.Popen[bytes]", jobs: Sequence[Job]) -> None:
    waiting = [job for job in jobs if not job.ended]
    with bar("runs", len(jobs), done=len(jobs) - len(waiting)) as tick:
        running = True
        while running:
            running = started.poll() is None
            time.sleep(0.5 if running else 0)
            for job in [job for job in waiting if job.ended]:
                waiting.remove(job)
                tick(job.run_dir)
