"""The report of `study tune`: what each search found, how its trials went, and how the recipes compare."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lbtrain.recipe.findings import BestBatch

from ..kit.charts import Chart, batch_axis, crosses, error_axis, look, tidy
from ..kit.tables import Table
from .arm import Scored, interval_of, origin_of
from .grid import Point
from .report import certainty, provenance_of, write_result
from .search import Search


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
    charts += [*by_value(searches), *by_batch(searches)]
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


def by_value(searches: Sequence[Search]) -> list[Chart]:
    """The score at every value that was tried, one chart for each batch size and key: whether the best value
    is inside its range, and how much it matters.
    """
    label = searches[0].points[0].primary_metric.label
    charts = []
    for size in dict.fromkeys(search.batch_size for search in searches):
        own = [search for search in searches if search.batch_size == size]
        for key in dict.fromkeys(key for search in own for key in search.keys):
            alt = f"The {label} of each trial against its {key}, one colour for each recipe."
            draw = partial(_draw_values, searches=[each for each in own if key in each.keys], key=key)
            charts.append(Chart(f"{key}, batch {size:,}", alt, draw))
    return charts


def _draw_values(axes: Axes, searches: Sequence[Search], key: str) -> None:
    """A line through the trials where nothing else than `key` differs between them."""
    metric = searches[0].points[0].primary_metric
    everything = []
    for number, search in enumerate(searches):
        at, style = search.keys.index(key), look(number)
        values = [trial.values[at] for trial in search.trials]
        tried = sorted(zip(values, search.scores(), strict=True), key=lambda each: each[0])
        style["linestyle"] = style["linestyle"] if len(search.keys) == 1 else "none"
        scored = [(value, score) for value, score in tried if score is not None]
        axes.plot(*zip(*scored, strict=True), marker="o", **style, label=search.recipe)
        lost = [value for value, score in tried if score is None]
        crosses(
            axes, lost, style["color"], top=not metric.higher_is_better, label=f"{search.recipe}, diverged"
        )
        everything += values
    wide = 0 < 4 * min(everything) < max(everything)
    axes.set(xlabel=key, ylabel=f"{metric.label} (%)", xscale="log" if wide else "linear")
    if not metric.higher_is_better:
        error_axis(axes, [search.best_so_far()[-1] for search in searches])
    tidy(axes)


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
    keys = {key for search in searches for key in search.keys}
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
