"""The report of a study: table, curves and a page."""

import json
import math
import re
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lbtrain.recipe.findings import Difference

from ..kit import pages
from ..kit.charts import Chart, crosses, error_axis, look, save, tidy
from ..kit.tables import Table
from ..scaling_report import stragglers
from .arm import Arm, Curve, Scored, interval_of


def _mean_curve(curves: list[Curve]) -> Curve:
    """At the epochs of the first: a batch that adapts to the run is logged at epochs of its own with every
    seed.
    """
    epochs = curves[0][0]
    return epochs, np.mean([np.interp(epochs, *curve) for curve in curves], axis=0)


def write_report(
    arms: list[Arm], out: Path, *, title: str, command: str, launch: str, overrides: Sequence[str] = ()
) -> str:
    """Writes study.md, .json, .png and .html into `out`; returns the table and the outcomes as text for the
    terminal.

    `launch`: seeds and ranks in words, where they say something. `overrides`: what makes every arm another
    experiment than its recipe.
    """
    grades = graded(arms)
    found = [*outcomes(arms), *(grade["text"] for grade in grades)]
    data = {
        "launch": launch,
        "overrides": list(overrides),
        "arms": [_as_row(arm) for arm in arms],
        "outcomes": found,
        "findings": grades,
        "provenance": provenance(arms, command),
    }
    waits = [each for arm in arms for each in arm.waits]
    ranks = (stragglers.charts(waits), [stragglers.table(waits)]) if waits else ([], [])
    return write_result(out, "study", title, data, charts_of(arms), [table_of(arms), *ranks[1]], ranks[0])


def write_result(
    out: Path,
    kind: str,
    title: str,
    data: dict[str, Any],
    charts: Sequence[Chart],
    tables: Sequence[Table],
    more: Sequence[Chart] = (),
) -> str:
    """Writes KIND.png (`charts`), KIND.html (these and `more`), KIND.md and KIND.json (the first table, and
    `data` with its outcomes and its provenance) into `out`, which it makes; returns the text for the
    terminal.
    """
    out.mkdir(parents=True, exist_ok=True)
    table, outcomes, origin = tables[0].markdown(), data["outcomes"], data["provenance"]
    save(charts, out / f"{kind}.png")
    page = pages.report(title, outcomes, [*charts, *more], tables, origin)
    (out / f"{kind}.html").write_text(page, encoding="utf-8")
    listed = "\n".join(f"- {line}" for line in outcomes)
    (out / f"{kind}.md").write_text(f"{table}\n\n{listed}\n\n{origin}\n", encoding="utf-8")
    (out / f"{kind}.json").write_text(_json(data | {"table": table}), encoding="utf-8")
    return "\n".join([table, "", *outcomes, "", f"{out}/{kind}.html, {out}/{kind}.png"])


def _json(data: dict[str, Any]) -> str:
    """One line for a list of numbers, such as the scores of a point."""
    text = json.dumps(data, indent=1)
    return re.sub(r"\[\n[^][{}\"]*\]", lambda found: re.sub(r"\n +", " ", found[0]), text) + "\n"


def table_of(arms: list[Arm]) -> Table:
    head = ["recipe", "batch", "steps", "peak lr", f"{arms[0].label} %, mean ± std", "n"]
    rows = [
        [
            f"{arm.name}\n{arm.title}",
            f"{arm.batch_size:,}",
            f"{arm.steps:,}",
            f"{arm.peak_lr:.4g}",
            arm.cell,
            str(len(arm.scores)),
        ]
        for arm in arms
    ]
    return Table(head, rows, align="lrrrlr", colours=[look(number)["color"] for number in range(len(arms))])


def outcomes(arms: list[Arm]) -> list[str]:
    """What the numbers say about each arm against the reference, in a sentence, with a 95% interval."""
    return [line for arm in arms for line in _outcome(arm, arms[0])]


def _outcome(arm: Arm, reference: Arm) -> list[str]:
    runs = arm.lost + len(arm.scores)
    lost = [f"{arm.name}: {arm.lost} of {runs} runs diverged"] if arm.lost else []
    if arm is reference or arm.mean is None or reference.mean is None:
        return lost
    gap = arm.mean - reference.mean
    words = "gains" if (gap > 0) == arm.primary_metric.higher_is_better else "loses"
    interval, remark = certainty(gap, arm, reference)
    return [*lost, f"{arm.name} {words} {abs(gap):.2f}{interval} points against {reference.name}{remark}"]


def graded(arms: list[Arm]) -> list[dict[str, Any]]:
    """Each arm that has a finding whose reference is an arm too, with the difference, its 95% interval (none
    for a single run) and the outcome. An arm of which a run diverged is worse than any that ended.
    """
    known = {arm.name: arm for arm in arms}
    rows = []
    for arm in arms:
        finding = arm.finding
        if not isinstance(finding, Difference):
            continue
        reference = known.get(finding.reference.rpartition("/")[2])
        if reference is None:
            continue
        gap, error = None, None
        if arm.lost or reference.lost:
            worst = -math.inf if arm.primary_metric.higher_is_better else math.inf
            sides = [worst if side.lost else 0.0 for side in (arm, reference)]
            outcome = finding.outcome(sides[0] - sides[1], 0.0)  # not a number where both did
            said = f"{arm.name}{arm.losses} against {reference.name}{reference.losses}"
        else:
            assert arm.mean is not None and reference.mean is not None
            gap, error = arm.mean - reference.mean, interval_of(arm.spread, reference.spread)
            outcome = finding.outcome(gap, math.inf if error is None else error)
            said = f"{arm.name}: {gap:+.2f}" + ("" if error is None else f" ± {error:.2f}") + " points"
        text = f"{said}, {outcome} ({finding})"
        rows.append({"recipe": arm.name, "gap": gap, "error": error, "outcome": outcome, "text": text})
    return rows


def certainty(gap: float, *sides: Scored, comparisons: int = 1) -> tuple[str, str]:
    """What stands behind a gap of two means: its 95% interval, and what that leaves of it. Of several
    `comparisons` the intervals hold together.
    """
    error = interval_of(*(side.spread for side in sides), comparisons=comparisons)
    if error is None:
        alike = min(n for _, n in (side.spread for side in sides)) > 1
        return "", f"; {'seeds with one score say' if alike else 'a single run says'} nothing of the spread"
    return f" ± {error:.2f}", "" if abs(gap) > error else ": no difference that these seeds can show"


def provenance(arms: list[Arm], command: str) -> str:
    return provenance_of(set().union(*(arm.origins for arm in arms)), command)


def provenance_of(origins: set[str], command: str) -> str:
    return f"{command}; {date.today()}; {' | '.join(sorted(origins))}"


def _as_row(arm: Arm) -> dict[str, Any]:
    return {
        "arm": arm.name,
        "recipe": arm.name if arm.shipped else "",
        "title": arm.title,
        "batch_size": arm.batch_size,
        "steps": arm.steps,
        "peak_lr": arm.peak_lr,
        "n": len(arm.scores),
        "diverged": len(arm.diverged),
        "label": arm.primary_metric.label,
        "evaluations": arm.evaluations,
        arm.primary_metric.name: arm.scores,
        "mean": arm.mean,
        "std": arm.std,
        "seconds": arm.seconds,
    }


def charts_of(arms: list[Arm]) -> list[Chart]:
    """Training loss, training error where the runs have it, and the primary metric over epochs: Goyal et al.
    2017, Figures 2 to 4.
    """
    label = arms[0].primary_metric.label
    lines = "one line per seed and a thick one for their mean, for each of " + ", ".join(a.name for a in arms)
    errors = Chart("Training error", f"Training error by epoch: {lines}.", partial(_draw_errors, arms=arms))
    return [
        Chart("Training loss", f"Training loss over the run: {lines}.", partial(_draw_losses, arms=arms)),
        *([errors] if any(arm.error_curves for arm in arms) else []),
        Chart(f"Validation: {label}", f"{label} over the run: {lines}.", partial(_draw_scores, arms=arms)),
    ]


def _draw_losses(axes: Axes, arms: list[Arm]) -> None:
    for number, arm in enumerate(arms):
        label = f"{arm.name} (batch {arm.batch_size:,})"
        draw_curves(axes, look(number), arm.loss_curves, unit=_unit(arm, arms), label=label)
        # At the upper edge: the last losses before the end would take the whole axis.
        lost = [epoch / _unit(arm, arms) for epoch in arm.diverged]
        named = f"{label}: {len(lost)} of {len(lost) + len(arm.scores)} diverged"
        crosses(axes, lost, look(number)["color"], label=named)
    axes.set(xlabel=_position(arms), ylabel="training loss (nats)", yscale="log")
    tidy(axes)


def _draw_errors(axes: Axes, arms: list[Arm]) -> None:
    for number, arm in enumerate(arms):
        draw_curves(axes, look(number), arm.error_curves, unit=_unit(arm, arms))
    axes.set(xlabel=_position(arms), ylabel="training error (%)")
    error_axis(axes, [curve[1][-1] for arm in arms for curve in arm.error_curves])
    tidy(axes, legend=False)


def _draw_scores(axes: Axes, arms: list[Arm]) -> None:
    for number, arm in enumerate(arms):
        draw_curves(axes, look(number), arm.score_curves, unit=_unit(arm, arms))
    metric = arms[0].primary_metric
    axes.set(xlabel=_position(arms), ylabel=f"{metric.label} (%)", ylim=(0, None))
    if not metric.higher_is_better:
        error_axis(axes, [arm.mean for arm in arms])
    axes.set_xlim(right=axes.get_xlim()[1] * 1.06)
    _name_the_ends(axes, arms)
    tidy(axes, legend=False)


def draw_curves(
    axes: Axes, style: dict[str, Any], curves: list[Curve], *, unit: float = 1.0, label: str | None = None
) -> None:
    """The mean as a line, every seed as a thin one, over the epochs divided by `unit`."""
    for curve in curves:
        axes.plot(curve[0] / unit, curve[1], **style, linewidth=0.6, alpha=0.35)
    if curves:
        few = "o" if len(curves[0][0]) < 10 else None  # a line through one evaluation is no line
        epochs, means = _mean_curve(curves)
        axes.plot(epochs / unit, means, **style, linewidth=2, marker=few, label=label)


def _position(arms: list[Arm]) -> str:
    """What the horizontal axis counts: on one axis of epochs runs that are far shorter would be a stroke."""
    lengths = [arm.epochs for arm in arms]
    return "share of the run" if max(lengths) > 3 * min(lengths) else "epoch"


def _unit(arm: Arm, arms: list[Arm]) -> float:
    """Epochs in one unit of the horizontal axis."""
    return 1.0 if _position(arms) == "epoch" else arm.epochs


def _name_the_ends(axes: Axes, arms: list[Arm]) -> None:
    """The mean score beside each curve's end, moved up where two would lie on each other."""
    least = 12 * axes.figure.dpi / 72  # a line of text, in pixels
    occupied = -math.inf
    ended = [
        (number, arm, arm.mean)
        for number, arm in enumerate(arms)
        if arm.mean is not None and arm.score_curves
    ]
    for number, arm, mean in sorted(ended, key=lambda each: each[2]):
        x, y = axes.transData.transform((arm.score_curves[0][0][-1] / _unit(arm, arms), mean))
        occupied = max(y, occupied + least)
        side, height = axes.transData.inverted().transform((x, occupied))
        axes.annotate(
            f" {mean:.1f}%",
            (side, height),
            color=look(number)["color"],
            va="center",
            fontsize=10,
            annotation_clip=False,
        )
