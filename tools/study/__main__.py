"""Compare recipes over several seeds: mean and standard deviation per recipe, curves, a page.

    python -m tools.study recipes/digits/digits.py recipes/digits/digits_720_unscaled.py
    recipes/digits/digits_720.py --seeds 5 --launcher deepspeed --ranks 2

The first recipe is the reference that the others are held against. All runs of a study share one launch. A
study that was stopped goes on where it was: what is finished in --out is not run again, and refused if its
recipe has changed since. A run that diverges is counted, and has no score. It writes study.md, study.json,
study.png and study.html there, next to the run directories; how they become results/, and what the recipes
say of themselves: `python -m tools.study.publish --help`.

    python -m tools.study sweep recipes/digits/digits.py --batch-sizes 2,4,8 --seeds 5    error against the
    batch size; --help says more
"""

import argparse
import shlex
import sys
from pathlib import Path

from lbtrain.errors import RecipeError, UserError
from lbtrain.recipe.files import load_recipe
from lbtrain.tasks import primary_metric_of

from . import sweep
from .jobs import Job, check_names_differ, launch_in_words, run_jobs, seeds_in_words
from .report import Arm, write_report
from .worker import check_unchanged


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tools.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "recipes", nargs="+", type=Path, metavar="RECIPE", help="recipe files, the reference first"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", dest="overrides", help="overrides for every arm"
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="how many seeds, counted from --first-seed (default 5)"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument(
        "--launcher", choices=("deepspeed", "accelerate", "torchrun", "python"), default="deepspeed"
    )
    parser.add_argument("--ranks", type=int, default=2, help="processes on this machine (default 2)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/study"),
        help="where the runs and the report go (default runs/study)",
    )
    parser.add_argument("--title", default="Study", help="heading of the report")
    return parser.parse_args(argv)


def jobs_of(options: argparse.Namespace, seeds: list[int]) -> list[Job]:
    """Seeds outside, arms inside: a study that is stopped early has compared every arm on the seeds it
    finished.
    """
    return [
        Job(str(path), (*options.overrides, f"seed={seed}"), str(options.out / path.stem / f"seed{seed}"))
        for seed in seeds
        for path in options.recipes
    ]


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["sweep"]:
        return sweep.main(words[1:])
    options = parse(words)
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    try:
        check_names_differ([(path.stem, path) for path in options.recipes])
        scored = {
            path: primary_metric_of(load_recipe(path).with_overrides(options.overrides))
            for path in options.recipes
        }
        if len(set(scored.values())) > 1:
            raise RecipeError(
                "scored by "
                + ", ".join(f"{path}: {each.label}" for path, each in scored.items())
                + ": study each kind by itself"
            )
        jobs = jobs_of(options, seeds)
        check_unchanged(jobs)
        run_jobs(jobs, options.out, launcher=options.launcher, ranks=options.ranks)
        arms = [Arm.read(path, options.out, seeds, scored[path]) for path in options.recipes]
        files = " ".join(map(str, options.recipes))
        counted = seeds_in_words(options.first_seed, options.seeds)
        command = (
            f"python -m tools.study {files} {counted} --launcher {options.launcher} --ranks {options.ranks}"
        )
        command += f" --set {shlex.join(options.overrides)}" if options.overrides else ""
        launch = launch_in_words(options.first_seed, options.seeds, options.launcher, options.ranks)
        print(
            write_report(
                arms,
                options.out,
                title=options.title,
                command=command,
                launch=launch,
                overrides=options.overrides,
            )
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
