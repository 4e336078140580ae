"""Tune recipes with equal budgets: as many trials for each recipe and batch size, at quasi-random points.

    lbtrain study tune recipes/digits/digits.py recipes/digits/digits_720_lars.py \\
        --batch-sizes 32,720 --trials 20 --over schedule.base_lr:log:0.01:1 \\
        --over digits_720_lars/schedule.base_lr:log:0.1:10 --over optimizer.weight_decay:log:1e-5:1e-3

A search over three batch sizes or more also shows the best score at each, and of one key its best value
(Masters & Luschi 2018), and grades recipes that carry the best batch sizes of their source (`finding`).

--over names a key, its scale (log, linear, or powers: the powers of two in a range) and its range; with
`RECIPE/` before the key, it holds for that recipe alone, in place of one without. The points are a scrambled
Sobol sequence, tried in its order, so that more --trials continue a search, and a search that was stopped
continues where it was. The other keys change with the batch size as in `study sweep`; key=value words change
every run.

The seeds are 1000 and the following ones, so that no comparison is made on the seeds of its tuning. The best
of many trials is an optimistic score: --confirm 5 trains the best trial of each search on the five seeds
after those of the tuning, and compares the recipes on them. A trial of which a run diverges has no score,
and counts. The command writes tune.md, tune.json, tune.png (the best score against the number of trials, and
every score against each key) and tune.html into --out.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lbtrain.errors import RecipeError

from ..kit import command
from .arm import score_metric_of
from .grid import batch_sizes_of, in_order, trained
from .jobs import Launch, check_names_differ, split_words
from .search import Search, trials_of
from .tune_report import write_report

FIRST_SEED = 1000


def main(words: list[str]) -> int:
    parser = command.parser("study tune", __doc__)
    parser.add_argument("--batch-sizes", required=True, help="The batch sizes, such as 32,720.")
    parser.add_argument("--trials", type=int, default=20, help="Trials per recipe and batch (default 20).")
    parser.add_argument(
        "--over",
        action="append",
        required=True,
        metavar="[RECIPE/]KEY:log|linear|powers:LOW:HIGH",
        help="A key to tune and its range; it may be given several times.",
    )
    parser.add_argument(
        "--confirm",
        type=command.count_or_none,
        default=0,
        metavar="N",
        help="Train the best trial of each search on N other seeds (default 0).",
    )
    parser.add_argument("--title", default="Tuning", help="The heading of the report.")
    text = "Recipe files, and overrides of all of them."
    Launch.add_options(parser, words=text, launcher="python", ranks=1, seeds=1, out="runs/tune")
    parser.set_defaults(first_seed=FIRST_SEED)
    options = parser.parse_intermixed_args(words)
    return command.exit_code(lambda: tune(options, command.typed("study tune", words)))


def tune(options: Any, typed: str) -> str:
    """Trains what is missing and writes the report. Raises RecipeError, before anything is trained."""
    recipes, overrides = split_words(options.words)
    launch, sizes = Launch.of(options), batch_sizes_of(options.batch_sizes)
    if options.trials < 1:
        raise RecipeError(f"--trials {options.trials} must be at least 1")
    check_names_differ([(path.stem, path) for path in recipes])
    if strange := [
        word
        for word in options.over
        if "/" in word and word.split("/")[0] not in {path.stem for path in recipes}
    ]:
        raise RecipeError(f"--over {strange[0]}: no recipe of this search has that name")
    trials = [trial for path in recipes for trial in trials_of(path, overrides, options.over, options.trials)]
    if len({score_metric_of(trial.arm.recipe) for trial in trials}) > 1:
        raise RecipeError("the recipes are scored by different metrics: tune each kind by itself")
    for trial in trials:
        if unknown := [size for size in sizes if not trial.arm.has_rate_at(size)]:
            raise RecipeError(
                f"{trial.recipe} has no learning rate at batch size {unknown[0]}: add one to its "
                "schedule.table, or give all another rule, such as schedule.rule=sqrt"
            )
    points = {
        (point.arm, point.batch_size): point
        for point in trained([each.arm for each in trials], sizes, launch)
    }
    searches = []
    for size in sizes:
        for path in recipes:
            own = [trial for trial in trials if trial.recipe == path.stem]
            searches.append(Search(path.stem, size, own, [points[trial.arm.name, size] for trial in own]))
    if options.confirm > 0:
        first = launch.seeds.stop
        launch = replace(launch, seeds=range(first, first + options.confirm))
        searches = confirm(searches, launch)
    return write_report(
        searches, launch.out, title=options.title, typed=typed, launch=str(launch), overrides=overrides
    )


def confirm(searches: Sequence[Search], launch: Launch) -> list[Search]:
    """The searches with their best trials on the seeds of `launch`, where what is missing is trained."""
    found = [search.confirmed_on(launch) for search in searches]
    launch.train(in_order([search.confirmed for search in found if search.confirmed]))
    return found
