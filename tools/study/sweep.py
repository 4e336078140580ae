"""The primary metric against the batch size, as Goyal et al. 2017 draw it in Figure 1: what each way of
scaling makes of the same recipe.

    lbtrain study sweep recipes/digits/digits.py recipes/digits/digits_720_lamb.py \\
        --batch-sizes 2,4,8,16,32,64,128,256,512,720 --seeds 5

The first recipe is trained at every batch size in three arms:

    unscaled          its learning rate as it is, without a warm-up
    linear            its learning rate by the linear rule, without a warm-up
    linear + warm-up  the same with its own warm-up, above its base batch only (Goyal et al. 2017, 5.3)

Every other recipe is a further arm, under its own rule; key=value words change all of them. An arm with
schedule.rule=table is trained at the batch sizes of its table only; at --tuned-batch-sizes only such arms
are, and at --warmup-batch-sizes only the linear rule with a warm-up: these two may stand without
--batch-sizes. Epochs and schedules stay. Where the batch is smaller than bn_batch_size or loss_batch_size,
all arms alike take these down to it, and they keep the memory of the running batch-norm statistics in
examples, which only an evaluation uses (bn_momentum = 1 - (1 - m) ** (batch / the recipe's batch); Busbridge
et al. 2023, "How to scale your EMA"). Arms that are the same run at some batch size share it. A sweep that
was stopped continues where it was; --continue-from keeps the points of a published one, whose runs may be
gone. It writes sweep.md, sweep.json, sweep.png, sweep_errors.png (training error by epoch beside that of the
base batch: Goyal et al. 2017, Figures 2 to 4) and sweep.html into --out.
"""

from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.recipe import inactive_keys
from lbtrain.recipe.files import load_recipe

from ..kit import command
from .arm import score_metric_of
from .grid import GridArm, batch_sizes_of, check_rates_follow_a_rule, trained
from .jobs import Launch, check_names_differ, split_words
from .recorded_points import published_points
from .sweep_report import write_report

WARMED_UP = "linear + warm-up"


def arms_of(reference: Path, others: Sequence[Path], overrides: Sequence[str] = ()) -> list[GridArm]:
    """Raises RecipeError for arms that would share a folder, for those that are scored by something else than
    the first, and for a reference whose rates stand in a table.
    """

    def arm(name: str, path: Path, *words: str, warmup_from_base: bool = False) -> GridArm:
        recipe = load_recipe(path).with_overrides(overrides)
        return GridArm(name, path, recipe, partial(words_at, recipe, (*overrides, *words), warmup_from_base))

    arms = [
        arm("unscaled", reference, "schedule.rule=none", "schedule.warmup=0ep"),
        arm("linear", reference, "schedule.rule=linear", "schedule.warmup=0ep"),
        arm(WARMED_UP, reference, "schedule.rule=linear", warmup_from_base=True),
        *[arm(path.stem, path) for path in others],
    ]
    check_rates_follow_a_rule(reference, arms[0].recipe)
    check_names_differ([(each.folder, each.path) for each in arms])
    for each in arms:
        ours, first = score_metric_of(each.recipe), arms[0].primary_metric
        if ours != first:
            raise RecipeError(
                f"{each.path}: is scored by {ours.label}, {reference} by {first.label}: sweep each by itself"
            )
    return arms


def check_all_are_trained(
    tuned: Sequence[GridArm], batch_sizes: Sequence[int], further: Sequence[int], published: Container[str]
) -> None:
    """Raises RecipeError for an arm with a table of rates that has none of the batch sizes and no `published`
    point, and for further batch sizes that no table has.
    """
    for arm in tuned:
        if arm.name not in published and not any(map(arm.has_rate_at, batch_sizes)):
            known = ", ".join(f"{entry.batch_size}" for entry in arm.recipe.schedule.table)
            raise RecipeError(
                f"{arm.path.stem} has learning rates at batch size {known} only (schedule.table): ask for "
                "one of these too (--batch-sizes or --tuned-batch-sizes), or add to its table"
            )
    if unknown := [size for size in further if not any(arm.has_rate_at(size) for arm in tuned)]:
        raise RecipeError(
            f"--tuned-batch-sizes {unknown[0]}: no recipe of this sweep has a learning rate there in its "
            "schedule.table"
        )


def further_sizes(text: str, sizes: Sequence[int]) -> list[int]:
    """The batch sizes of an option, without those at which every arm is trained."""
    return [size for size in (batch_sizes_of(text) if text else []) if size not in sizes]


def words_at(
    recipe: Recipe, words: tuple[str, ...], warmup_from_base: bool, batch_size: int
) -> tuple[str, ...]:
    """Everything that makes an arm a run at `batch_size`."""
    ratio = 1 if recipe.bn_update == "ghost_batch" else batch_size / recipe.batch_size
    momentum = 1 - (1 - recipe.bn_momentum) ** ratio
    short = warmup_from_base and batch_size <= recipe.schedule.base_batch_size
    own = (
        *(("schedule.warmup=0ep",) if short else ()),
        f"batch_size={batch_size}",
        f"bn_batch_size={min(recipe.bn_batch_size, batch_size)}",
        f"loss_batch_size={min(recipe.loss_batch_size, batch_size)}",
        f"bn_momentum={momentum:.6g}",
        "checkpoint.every=0.25dur",
        "log_every=0.05dur",
    )
    inactive = inactive_keys(recipe.with_overrides([*words, *own]))  # such as a detector's frozen batch norm
    return (*words, *(word for word in own if word.partition("=")[0] not in inactive))


def main(words: list[str]) -> int:
    parser = command.parser("study sweep", __doc__)
    parser.add_argument(
        "--batch-sizes", default="", help="The batch sizes of all arms, such as 2,8,32,128,720."
    )
    parser.add_argument(
        "--tuned-batch-sizes",
        default="",
        help="Further batch sizes, for the arms alone that have a table of rates with them.",
    )
    parser.add_argument(
        "--warmup-batch-sizes",
        default="",
        help="Further batch sizes, for the linear rule with a warm-up alone.",
    )
    parser.add_argument(
        "--continue-from",
        type=Path,
        metavar="RESULT",
        help="A published sweep (results/NAME.json): its points are kept, and what it lacks is trained: "
        "arms, batch sizes, seeds.",
    )
    parser.add_argument(
        "--title", default="", help="The heading of the picture (default: the recipe's name)."
    )
    text = "Recipe files, that of the first three arms first, and overrides of all of them."
    Launch.add_options(parser, words=text, launcher="python", ranks=1, seeds=5, out="runs/sweep")
    options = parser.parse_intermixed_args(words)

    def work() -> str:
        recipes, overrides = split_words(options.words)
        named = options.batch_sizes, options.tuned_batch_sizes, options.warmup_batch_sizes
        if not any(named) and options.continue_from is None:
            raise RecipeError("no batch size is named: add --batch-sizes, such as 2,8,32,128,720")
        arms = arms_of(recipes[0], recipes[1:], overrides)
        launch = Launch.of(options)
        published = published_points(options.continue_from, arms, overrides, launch)
        known = {key: len(point.seeds) for key, point in published.items()}
        sizes = further_sizes(options.batch_sizes, [])
        tuned = [arm for arm in arms if arm.recipe.schedule.rule == "table"]
        tuned_sizes = further_sizes(options.tuned_batch_sizes, sizes)
        check_all_are_trained(tuned, [*sizes, *tuned_sizes], tuned_sizes, {arm for arm, _ in known})
        points = trained(arms, sizes, launch, known) + trained(tuned, tuned_sizes, launch, known)
        warmed_up = [arm for arm in arms if arm.name == WARMED_UP]
        points += trained(warmed_up, further_sizes(options.warmup_batch_sizes, sizes), launch, known)
        return write_report(
            points,
            launch.out,
            title=options.title or arms[0].path.stem,
            command=command.typed("study sweep", words),
            reference=arms[0].recipe.schedule.base_batch_size,
            overrides=overrides,
            published=published.values(),
        )

    return command.exit_code(work)
