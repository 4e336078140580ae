"""Compare recipes over several seeds: mean and standard deviation per recipe, curves, a page.

    python -m tools.study recipes/digits.py recipes/digits_720_unscaled.py recipes/digits_720.py --seeds 5 --launcher deepspeed --ranks 2

The first recipe is the reference that the others are held against. All runs of a study share one launch. A study that was stopped goes on
where it was: what is finished in --out is not run again. It writes study.md, study.json, study.png and study.html there, next to the run
directories.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lbtrain.errors import RecipeError, UserError
from tools.study.report import Arm, write_report
from tools.study.worker import load_recipe

WORKER = str(Path(__file__).with_name("worker.py"))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tools.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE", help="recipe files, the reference first")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="overrides", help="overrides for every arm")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, counted from --first-seed (default 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--launcher", choices=("deepspeed", "accelerate", "torchrun", "python"), default="deepspeed")
    parser.add_argument("--ranks", type=int, default=2, help="processes on this machine (default 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="where the runs and the report go (default runs/study)")
    parser.add_argument("--title", default="Study", help="heading of the report")
    return parser.parse_args(argv)


def launch_command(launcher: str, ranks: int, worker_words: list[str]) -> list[str]:
    """The real launcher, as a user would type it."""
    bin_folder = Path(sys.executable).parent
    commands = {
        "deepspeed": [str(bin_folder / "deepspeed"), "--num_accelerators", str(ranks)],
        "accelerate": [str(bin_folder / "accelerate"), "launch", "--multi_gpu", "--num_processes", str(ranks)],
        "torchrun": [str(bin_folder / "torchrun"), "--nproc_per_node", str(ranks)],
        "python": [sys.executable],
    }
    return [*commands[launcher], WORKER, *worker_words]


def run_all(options: argparse.Namespace, seeds: list[int]) -> None:
    """Launches what is missing and shows the progress by the summaries that appear. Raises UserError if the launch fails."""
    summaries = [options.out / arm.stem / f"seed{seed}" / "summary.json" for arm in options.recipes for seed in seeds]
    if all(path.exists() for path in summaries):
        return
    words = [str(options.out), ",".join(map(str, seeds)), ",".join(map(str, options.recipes)), *options.overrides]
    log = options.out / "launch.log"
    options.out.mkdir(parents=True, exist_ok=True)
    # No GPU: DeepSpeed is told so, or it would look for one; the exchange stays on this machine.
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"} if not _has_gpu() else dict(os.environ)
    with log.open("w") as file:
        job = subprocess.Popen(launch_command(options.launcher, options.ranks, words), stdout=file, stderr=file, env=environment)
        try:
            _watch(job, summaries)
        except KeyboardInterrupt:
            job.terminate()
            job.wait()
            raise
    if job.returncode or not all(path.exists() for path in summaries):
        raise UserError(
            f"the launch ended with exit code {job.returncode}; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-15:])
        )


def _watch(job: "subprocess.Popen[bytes]", summaries: list[Path]) -> None:
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    ]
    seen: set[Path] = set()
    with Progress(*columns) as progress:
        task = progress.add_task("runs", total=len(summaries))
        while job.poll() is None:
            time.sleep(0.5)
            for path in summaries:
                if path not in seen and path.exists():
                    seen.add(path)
                    progress.update(task, completed=len(seen))
                    if not progress.console.is_terminal:
                        print(f"{len(seen)} of {len(summaries)} runs done: {path.parent}", flush=True)


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    try:
        for path in options.recipes:
            if not path.is_file():
                raise RecipeError(f"{path}: no such recipe file")
            load_recipe(path).with_overrides(options.overrides)
        run_all(options, seeds)
        arms = [Arm.read(path, options.out, seeds) for path in options.recipes]
        words = " ".join(map(str, options.recipes))
        command = f"python -m tools.study {words} --seeds {options.seeds} --launcher {options.launcher} --ranks {options.ranks}"
        print(write_report(arms, options.out, title=options.title, command=command))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
