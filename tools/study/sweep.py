"""Error (or whatever the task is scored by) against the batch size, as Goyal et al. 2017 draw it in Figure 1:
what each way of scaling makes of the same recipe.

    python -m tools.study sweep recipes/digits/digits.py recipes/digits/digits_720_lamb.py --batch-sizes
    2,4,8,16,32,64,128,256,512,720 --seeds 5

The first recipe is trained at every batch size in three arms:

    unscaled          its learning rate as it is, no warm-up
    linear            its learning rate by the linear rule, no warm-up
    linear + warm-up  the same with its own warm-up, above its base batch only (Goyal et al. 2017, section
    5.3)

and every other recipe as a further arm, under its own rule. Epochs and schedules stay; where the batch is
smaller than bn_batch_size or loss_batch_size, all arms alike take these down to it, and they keep the memory
of the running batch-norm statistics in examples, which only an evaluation uses (bn_momentum = 1 - (1 - m) **
(batch / the recipe's batch); Busbridge et al. 2023, "How to scale your EMA"). Arms that are the same run at
some batch size share it. A sweep that was stopped goes on where it was. It writes sweep.md, sweep.json and
sweep.png to --out.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from lbtrain import Recipe
from lbtrain.errors import RecipeError, UserError
from lbtrain.recipe.files import load_recipe
from lbtrain.tasks import PrimaryMetric, primary_metric_of

from .jobs import Job, check_names_differ, run_jobs, seeds_in_words
from .sweep_report import Point, write_report
from .worker import check_unchanged


@dataclass(frozen=True)
class SweepArm:
    """A way of scaling: a recipe file and the words that make it this arm."""

    name: str
    path: Path
    recipe: Recipe
    words: tuple[str, ...]
    warmup_from_base: bool
    """Whether the warm-up is left out up to the recipe's base batch."""

    @property
    def folder(self) -> str:
        """Of its runs, in --out."""
        return self.name.replace(" ", "")

    @property
    def primary_metric(self) -> PrimaryMetric:
        return primary_metric_of(self.recipe)

    def words_at(self, batch_size: int) -> tuple[str, ...]:
        """Everything that makes this arm a run at `batch_size`, its seed aside. The score is taken once, at
        the end.
        """
        momentum = 1 - (1 - self.recipe.bn_momentum) ** (batch_size / self.recipe.batch_size)
        short = self.warmup_from_base and batch_size <= self.recipe.schedule.base_batch_size
        return (
            *self.words,
            *(("schedule.warmup=0ep",) if short else ()),
            f"batch_size={batch_size}",
            f"bn_batch_size={min(self.recipe.bn_batch_size, batch_size)}",
            f"loss_batch_size={min(self.recipe.loss_batch_size, batch_size)}",
            f"bn_momentum={momentum:.6g}",
            "evaluate_every=1dur",
            "checkpoint.every=0.25dur",
            "log_every=0.05dur",
        )

    def recipe_at(self, batch_size: int) -> Recipe:
        return self.recipe.with_overrides(self.words_at(batch_size))


def arms_of(reference: Path, others: list[Path]) -> list[SweepArm]:
    """Raises RecipeError for arms that would share a folder, and for those that are scored by something else
    than the first.
    """
    recipe = load_recipe(reference)
    arms = [
        SweepArm("unscaled", reference, recipe, ("schedule.rule=none", "schedule.warmup=0ep"), False),
        SweepArm("linear", reference, recipe, ("schedule.rule=linear", "schedule.warmup=0ep"), False),
        SweepArm("linear + warm-up", reference, recipe, ("schedule.rule=linear",), True),
        *[SweepArm(path.stem, path, load_recipe(path), (), False) for path in others],
    ]
    check_names_differ([(arm.folder, arm.path) for arm in arms])
    for arm in arms:
        ours, first = arm.primary_metric, arms[0].primary_metric
        if ours != first:
            raise RecipeError(
                f"{arm.path}: is scored by {ours.label}, {reference} by {first.label}: sweep each by itself"
            )
    return arms


def same_up_to_names(recipe: Recipe) -> str:
    """What a run computes: the rule's name does not matter where it gives the same rate."""
    rate = recipe.schedule
    at_base = recipe.batch_size == rate.base_batch_size
    return recipe.vary(schedule=dict(rule="none")).to_yaml() if at_base else recipe.to_yaml()


def points_of(arms: list[SweepArm], batch_sizes: list[int], seeds: list[int], out: Path) -> list[Point]:
    """One point per arm and batch size; arms whose recipes are equal there share the runs of the first."""
    jobs: dict[str, tuple[Job, ...]] = {}
    points = []
    for batch_size in batch_sizes:
        for arm in arms:
            folder = out / arm.folder / f"batch{batch_size}"
            words = arm.words_at(batch_size)
            new = tuple(
                Job(str(arm.path), (*words, f"seed={seed}"), str(folder / f"seed{seed}")) for seed in seeds
            )
            own = jobs.setdefault(same_up_to_names(arm.recipe_at(batch_size)), new)
            points.append(Point(arm.name, batch_size, own, arm.primary_metric))
    return points


def in_order(points: list[Point]) -> list[Job]:
    """Every job once, the large batches first: they are quick, and a sweep that is stopped early has whole
    points, with all their seeds.
    """
    by_batch = sorted(points, key=lambda point: -point.batch_size)
    return list({job.run_dir: job for point in by_batch for job in point.jobs}.values())


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tools.study sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("reference", type=Path, metavar="RECIPE", help="the recipe of the first three arms")
    parser.add_argument(
        "others", nargs="*", type=Path, metavar="RECIPE", help="recipes that are arms of their own"
    )
    parser.add_argument("--batch-sizes", required=True, help="such as 2,8,32,128,720")
    parser.add_argument(
        "--seeds", type=int, default=5, help="how many seeds, counted from --first-seed (default 5)"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument(
        "--launcher", choices=("deepspeed", "accelerate", "torchrun", "python"), default="python"
    )
    parser.add_argument("--ranks", type=int, default=1, help="processes on this machine (default 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/sweep"),
        help="where the runs and the report go (default runs/sweep)",
    )
    parser.add_argument("--title", default="", help="heading of the picture")
    return parser.parse_args(argv)


def batch_sizes_of(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise RecipeError(f"--batch-sizes {text}: takes batch sizes such as 2,8,32,128,720")
    return sorted({int(part) for part in parts})


def main(argv: list[str]) -> int:
    options = parse(argv)
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    try:
        arms = arms_of(options.reference, options.others)
        points = points_of(arms, batch_sizes_of(options.batch_sizes), seeds, options.out)
        jobs = in_order(points)
        check_unchanged(jobs)
        run_jobs(jobs, options.out, launcher=options.launcher, ranks=options.ranks)
        files = " ".join(map(str, [options.reference, *options.others]))
        counted = seeds_in_words(options.first_seed, options.seeds)
        command = f"python -m tools.study sweep {files} --batch-sizes {options.batch_sizes} {counted}"
        command += (
            f" --launcher {options.launcher} --ranks {options.ranks}" if options.launcher != "python" else ""
        )
        command += f' --title "{options.title}"' if options.title else ""
        title, reference = options.title or arms[0].path.stem, arms[0].recipe.batch_size
        print(write_report(points, options.out, title=title, command=command, reference=reference))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
