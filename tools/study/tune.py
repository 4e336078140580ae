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
and counts. The command writes tune.md, tune.json, tune.png (the best value against the number of trials) and
tune.html into --out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lbtrain.errors import RecipeError
from lbtrain.recipe.files import load_recipe
from lbtrain.recipe.findings import BestBatch

from ..kit import command
from ..kit.charts import Chart, batch_axis, error_axis, look, tidy
from ..kit.tables import Table
from .arm import Scored, interval_of, origin_of, score_metric_of
from .grid import GridArm, Point, batch_sizes_of, in_order, points_of, trained
from .jobs import Launch, check_names_differ, split_words
from .report import certainty, provenance_of, write_result
from .sweep import words_at

FIRST_SEED = 1000
SCALES = ("log", "linear", "powers")


@dataclass(frozen=True)
class Axis:
    """One key and the range that is searched; `scale` is one of SCALES."""

    key: str
    scale: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """From KEY:SCALE:LOW:HIGH. Raises RecipeError."""
        try:
            key, scale, low, high = text.split(":")
            axis = cls(key, scale, float(low), float(high))
        except ValueError:
            raise RecipeError(f"--over {text}: write KEY:SCALE:LOW:HIGH") from None
        if scale not in SCALES:
            raise RecipeError(f"--over {text}: the scale {scale} is none of {', '.join(SCALES)}")
        if not -math.inf < axis.low < axis.high < math.inf or (scale != "linear" and axis.low <= 0):
            positive = "0 < " * (scale != "linear")
            raise RecipeError(f"--over {text}: the range must have {positive}LOW < HIGH, both finite")
        if scale == "powers" and axis.at(0) > axis.high:
            raise RecipeError(f"--over {text}: no power of two lies in this range")
        return axis

    def at(self, share: float) -> float:
        """The value at a share of the range, from 0 to below 1."""
        if self.scale == "linear":
            return self.low + (self.high - self.low) * share
        if self.scale == "log":
            return self.low * (self.high / self.low) ** share
        first, last = math.ceil(math.log2(self.low)), math.floor(math.log2(self.high))
        return float(2 ** (first + math.floor(share * (last - first + 1))))

    def word(self, share: float) -> str:
        """The same as KEY=VALUE; a power of two may be the value of a key that takes whole numbers."""
        value = self.at(share)
        return f"{self.key}={value:.4g}" if value != int(value) else f"{self.key}={value:.0f}"


def axes_of(words: Sequence[str], recipe: str) -> list[Axis]:
    """The axes of one recipe (its file's stem): those for it alone come before those for all. Raises
    RecipeError.
    """
    found: dict[str, Axis] = {}
    for word in sorted(words, key=lambda word: "/" in word.partition(":")[0]):
        owner, _, text = word.rpartition("/")
        if owner in ("", recipe):
            axis = Axis.parse(text)
            found[axis.key] = axis
    if not found:
        raise RecipeError(f"{recipe}: no --over names a key of it")
    return list(found.values())


def shares(trials: int, dimensions: int) -> list[list[float]]:
    """The first points of one sequence in the unit cube, whatever their number [trials, dimensions].

    scipy's sequence itself: optuna's QMCSampler takes it too, but its first point is a random one.
    """
    from scipy.stats.qmc import Sobol

    points = Sobol(dimensions, rng=0).random_base2(max(0, (trials - 1).bit_length()))
    return [[float(share) for share in point] for point in points[:trials]]


@dataclass(frozen=True)
class Trial:
    """One setting of one recipe, and the words that make it: a key and its number each."""

    recipe: str
    words: tuple[str, ...]
    arm: GridArm

    @property
    def values(self) -> tuple[float, ...]:
        """Of each key."""
        return tuple(float(word.partition("=")[2]) for word in self.words)


def trials_of(path: Path, overrides: Sequence[str], over: Sequence[str], count: int) -> list[Trial]:
    """Raises RecipeError for a range or a key that is wrong."""
    recipe, axes = load_recipe(path).with_overrides(overrides), axes_of(over, path.stem)
    trials = []
    for number, point in enumerate(shares(count, len(axes))):
        words = tuple(axis.word(at) for axis, at in zip(axes, point, strict=True))
        recipe.with_overrides(words)
        batch = partial(words_at, recipe, tuple(overrides), False)
        arm = GridArm(f"{path.stem}/trial{number:03}", path, recipe, partial(_with_words, batch, words))
        trials.append(Trial(path.stem, words, arm))
    return trials


def _with_words(batch: Any, words: tuple[str, ...], batch_size: int) -> tuple[str, ...]:
    return (*batch(batch_size), *words)


@dataclass(frozen=True)
class Search:
    """All trials of one recipe at one batch size, in the order in which they were made."""

    recipe: str
    batch_size: int
    trials: Sequence[Trial]
    points: Sequence[Point]
    confirmed: Point | None = None
    """The best trial on seeds that the search has not used."""

    def scores(self) -> list[float | None]:
        """One per trial; None where a run diverged."""
        return [None if point.lost else point.mean for point in self.points]

    def best_so_far(self) -> list[float | None]:
        """After each trial."""
        found: list[float | None] = []
        higher = self.points[0].primary_metric.higher_is_better
        for score in self.scores():
            known = [each for each in (score, found[-1] if found else None) if each is not None]
            found.append((max if higher else min)(known) if known else None)
        return found

    @property
    def best(self) -> int | None:
        """The number of the best trial, the first where several are alike; None if all diverged."""
        best = self.best_so_far()[-1]
        return None if best is None else self.scores().index(best)

    def confirmed_on(self, launch: Launch) -> "Search":
        """With the best trial on the seeds of `launch`, if there is one."""
        if self.best is None:
            return self
        arm, seeds = self.trials[self.best].arm, launch.seeds
        (point,) = points_of([arm], [self.batch_size], seeds, launch.out, launch.evaluations)
        return replace(self, confirmed=point)

    def outcome(self) -> str:
        name = f"{self.recipe} at batch {self.batch_size:,}"
        if self.best is None:
            return f"{name}: every trial diverged"
        trial = self.trials[self.best]
        tried = zip(*(each.values for each in self.trials), strict=True)
        edges = [
            f"; no {'larger' if own == max(all_own) else 'smaller'} {word.split('=')[0]} was tried: widen it"
            for word, own, all_own in zip(trial.words, trial.values, tried, strict=True)
            if own in (min(all_own), max(all_own))
        ]
        return f"{name}: {self.points[self.best].cell} with {' '.join(trial.words)}{''.join(edges)}"

    def row(self) -> list[str]:
        diverged = sum(bool(point.lost) for point in self.points)
        best, words = "-", "-"
        if self.best is not None:
            best, words = self.points[self.best].cell, " ".join(self.trials[self.best].words)
        keys, seeds = len(self.trials[0].words), len(self.points[0].jobs)
        counts = (len(self.points), seeds, keys, diverged)
        confirmed = self.confirmed.cell if self.confirmed else "-"
        return [self.recipe, f"{self.batch_size:,}", *map(str, counts), best, confirmed, words]


def confirm(searches: Sequence[Search], launch: Launch) -> list[Search]:
    """The searches with their best trials on the seeds of `launch`, where what is missing is trained."""
    found = [search.confirmed_on(launch) for search in searches]
    launch.train(in_order([search.confirmed for search in found if search.confirmed]))
    return found


def order(searches: Sequence[Search]) -> list[str]:
    """At each batch size, how far the recipes are behind the best one on the seeds that confirm them; one of
    which a run diverged is behind all others. The intervals of a batch size hold together, whichever recipe
    comes first: that is seen on the same seeds, so that every pair is a comparison.
    """
    lines = []
    for size in dict.fromkeys(search.batch_size for search in searches):
        confirmed = [
            (search.recipe, point)
            for search in searches
            if search.batch_size == size and (point := search.confirmed)
        ]
        scored = sum(point.mean is not None for _, point in confirmed)
        ranked = sorted(confirmed, key=lambda each: (each[1].lost > 0, _badness(each[1]), each[0]))
        for name, point in ranked:
            first, leader = ranked[0]
            if point.mean is None:
                said = f"all runs of {name} diverged"
            elif point is leader:
                continue
            else:
                gap = _badness(point) - _badness(leader)
                interval, remark = certainty(gap, point, leader, comparisons=math.comb(scored, 2))
                where = "behind" if gap >= 0 else "ahead of"
                ours, theirs = f"{name}{point.losses}", f"{first}{leader.losses}"
                said = f"{ours} is {abs(gap):.2f}{interval} points {where} {theirs}{remark}"
            lines.append(f"on other seeds at batch {size:,}, {said}")
    return lines


def _badness(point: Scored) -> float:
    """The mean score, with the sign that makes less better."""
    sign = -1 if point.primary_metric.higher_is_better else 1
    return math.inf if point.mean is None else sign * point.mean


def write_report(
    searches: Sequence[Search], out: Path, *, title: str, typed: str, launch: str, overrides: Sequence[str]
) -> str:
    """Writes tune.md, .json, .png and .html; returns the text for the terminal. `launch`: of the runs that
    confirm the best trials, in words; `overrides`: what makes every run another experiment than its recipe.
    """
    label = searches[0].points[0].label
    head = [
        "recipe",
        "batch",
        "trials",
        "seeds",
        "keys",
        "diverged",
        f"best {label} %",
        "on other seeds",
        "with",
    ]
    table = Table(head, [search.row() for search in searches], title="Budget and best", align="lrrrrrlll")
    charts = [
        Chart(
            f"{title}: batch {size:,}",
            f"The best {label} so far against the number of trials, one line for each recipe.",
            partial(_draw, searches=[each for each in searches if each.batch_size == size]),
        )
        for size in dict.fromkeys(search.batch_size for search in searches)
    ]
    charts += by_batch(searches)
    grades = graded(searches)
    outcomes = [
        *(search.outcome() for search in searches),
        *order(searches),
        *(grade["text"] for grade in grades),
    ]
    confirmed = [search.confirmed for search in searches if search.confirmed]
    points = [*(point for search in searches for point in search.points), *confirmed]
    summaries = [each for point in points for each in point.summaries]
    rows = [
        {"recipe": search.recipe, "trial": number, "words": trial.words, **point.row()}
        for search in searches
        for number, (trial, point) in enumerate(zip(search.trials, search.points, strict=True))
    ]
    data = {
        "title": title,
        "command": typed,
        "trials": rows,
        "arms": [{"recipe": point.recipe, **point.row()} for point in confirmed],
        "launch": launch,
        "overrides": list(overrides),
        "outcomes": outcomes,
        "findings": grades,
        "provenance": provenance_of({origin_of(summary) for summary in summaries}, typed),
    }
    return write_result(out, "tune", title, data, charts, [table])


def graded(searches: Sequence[Search]) -> list[dict[str, Any]]:
    """Of each recipe whose source names the best batch sizes, or ghost batch sizes: that of the best trial
    here, and the outcome, by the best one of these sizes less the best of all others. Nothing where only one
    size was tried. Best trials of the batch sizes that were confirmed on other seeds are compared on these.
    """
    rows = []
    for name in dict.fromkeys(search.recipe for search in searches):
        own = [search for search in searches if search.recipe == name]
        finding = own[0].trials[0].arm.recipe.finding
        if not isinstance(finding, BestBatch):
            continue
        confirmed = finding.key == "batch_size" and all(search.confirmed for search in own)
        tried = [
            (getattr(trial.arm.recipe_at(search.batch_size), finding.key), point)
            for search in own
            for trial, point in (
                [(search.trials[search.best or 0], search.confirmed)]
                if confirmed and search.confirmed
                else zip(search.trials, search.points, strict=True)
            )
            if not point.lost
        ]
        if len({size for size, _ in tried}) < 2:
            continue
        size, _ = min(tried, key=lambda each: _badness(each[1]))
        sides = [
            min((point for size, point in tried if finding.names(size) is named), key=_badness, default=None)
            for named in (True, False)
        ]
        outcome = _compared(*sides)
        text = f"{name}: best at {finding.key} {size:,}, {outcome} ({finding})"
        rows.append({"recipe": name, finding.key: size, "outcome": outcome, "text": text})
    return rows


def _compared(named: Point | None, other: Point | None) -> str:
    """Whether the best of the sizes that a source names is better than the best of the others: open where the
    runs do not say so, or one of the two was not tried.
    """
    if named is None or other is None:
        return "open"
    error = interval_of(named.spread, other.spread)
    gap = _badness(named) - _badness(other)
    return BestBatch.outcome(gap, math.inf if error is None else error)


def _with_a_best(searches: Sequence[Search], recipe: str) -> list[Search]:
    """The searches of a recipe in which a trial did not diverge."""
    return [search for search in searches if search.recipe == recipe and search.best is not None]


def by_batch(searches: Sequence[Search]) -> list[Chart]:
    """The best score at each batch size, and where one key was tuned its best value (Masters & Luschi 2018,
    Figures 1 to 9). Nothing for fewer than three batch sizes.
    """
    if len({search.batch_size for search in searches}) < 3:
        return []
    label = searches[0].points[0].label
    of_each = "at each batch size, one line for each recipe."
    draw = partial(_draw_best, searches=searches)
    charts = [Chart("The best at each batch size", f"The best {label} {of_each}", partial(draw, key=""))]
    keys = {word.partition("=")[0] for search in searches for word in search.trials[0].words}
    if len(keys) == 1:
        (key,) = keys
        charts.append(Chart(f"The best {key}", f"The best {key} {of_each}", partial(draw, key=key)))
    return charts


def _draw_best(axes: Axes, searches: Sequence[Search], key: str) -> None:
    """The best score over the batch size, or the best value of `key`."""
    for number, name in enumerate(dict.fromkeys(search.recipe for search in searches)):
        own = _with_a_best(searches, name)
        values: Any = [_best_value(search) if key else search.best_so_far()[-1] for search in own]
        axes.plot([search.batch_size for search in own], values, marker="o", **look(number), label=name)
    sizes = sorted({search.batch_size for search in searches})
    batch_axis(axes, sizes, [f"{size:,}" for size in sizes])
    axes.set(xlabel="images per step (batch size)", ylabel=key or f"{searches[0].points[0].label} (%)")
    axes.set_yscale("log" if key else "linear")
    tidy(axes)


def _best_value(search: Search) -> float:
    """Of the one key that was tuned."""
    return search.trials[search.best or 0].values[0]


def _draw(axes: Axes, searches: Sequence[Search]) -> None:
    metric = searches[0].points[0].primary_metric
    for number, search in enumerate(searches):
        budget = range(1, len(search.points) + 1)
        best = [math.nan if value is None else value for value in search.best_so_far()]
        tried = [math.nan if value is None else value for value in search.scores()]
        axes.plot(budget, tried, ".", color=look(number)["color"], alpha=0.4)
        axes.step(budget, best, where="post", **look(number), linewidth=2, label=search.recipe)
    axes.set(xlabel="trials", ylabel=f"best {searches[0].points[0].label} so far (%)", ylim=(0, None))
    if not metric.higher_is_better:
        error_axis(axes, [search.best_so_far()[-1] for search in searches])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    tidy(axes)


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
