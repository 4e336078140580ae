"""The report of a study: table, curves and a page, from the run directories alone."""

import ast
import base64
import html
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from lbtrain.tasks import PrimaryMetric

# Okabe & Ito's colours, told apart by colour-blind eyes and in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", ":", "-.")


def look(number: int) -> dict[str, Any]:
    """Colour and dashes of curve `number` (from 0), as matplotlib takes them: the colours repeat, with other
    dashes.
    """
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number // len(_COLOURS) % len(_DASHES)],
    }


Curve = tuple[Any, Any]
"""Epochs, and a value at each."""


@dataclass(frozen=True)
class Arm:
    """One recipe over all seeds. Scores in percent; curves of the runs that ended, one per seed."""

    name: str
    title: str
    batch_size: int
    peak_lr: float
    steps: int
    epochs: float
    primary_metric: PrimaryMetric
    scores: list[float]
    """Of the headline metric, one per run that ended."""
    diverged: list[float]
    """The epoch that each of the other runs had come to."""
    seconds: list[float]
    loss_curves: list[Curve]
    score_curves: list[Curve]
    origins: set[str]
    """Commit, hardware and versions of the runs, as they wrote them; one unless a study was continued
    elsewhere or later.
    """

    @classmethod
    def read(cls, recipe: Path, out: Path, seeds: list[int], primary_metric: PrimaryMetric) -> "Arm":
        folders = [out / recipe.stem / f"seed{seed}" for seed in seeds]
        ended = [folder for folder in folders if (folder / "summary.json").exists()]
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in ended]
        plan = json.loads((folders[0] / "plan.json").read_text())
        rows = [_rows(folder) for folder in ended]
        return cls(
            name=recipe.stem,
            title=(ast.get_docstring(ast.parse(recipe.read_text())) or recipe.stem).splitlines()[0],
            batch_size=plan["batch_size"],
            peak_lr=plan["learning_rate"]["peak"],
            steps=plan["total_steps"],
            epochs=plan["total_examples"] / plan["train_examples"],
            primary_metric=primary_metric,
            scores=[summary[primary_metric.name] for summary in summaries],
            diverged=[
                max((row["epoch"] for row in _rows(folder)), default=0.0)
                for folder in folders
                if folder not in ended
            ],
            seconds=[summary["seconds"] for summary in summaries],
            loss_curves=[_curve(run, "train", "loss") for run in rows],
            score_curves=[_curve(run, "eval", primary_metric.name) for run in rows],
            origins={origin_of(summary) for summary in summaries},
        )

    @property
    def mean(self) -> float | None:
        """Of the runs that ended; None if all diverged."""
        return statistics.mean(self.scores) if self.scores else None

    @property
    def std(self) -> float:
        """Of one run (n - 1 in the denominator); 0 for a single seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0

    @property
    def cell(self) -> str:
        return cell(self.scores, len(self.diverged))


def _rows(folder: Path) -> list[dict[str, Any]]:
    """What the run logged of training and evaluations. A run may diverge before it logs anything."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["kind"] in ("train", "eval")]


def _curve(rows: list[dict[str, Any]], kind: str, value: str) -> Curve:
    picked = [row for row in rows if row["kind"] == kind]
    return np.array([row["epoch"] for row in picked]), np.array([row[value] for row in picked])


def _mean_curve(curves: list[Curve]) -> Curve:
    """At the epochs of the first: a batch that adapts to the run is logged at epochs of its own with every
    seed.
    """
    epochs = curves[0][0]
    return epochs, np.mean([np.interp(epochs, *curve) for curve in curves], axis=0)


def cell(scores: Sequence[float], diverged: int) -> str:
    """Mean and standard deviation of a run, for a table; one run has none to show."""
    if not scores:
        return "diverged"
    spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    lost = f" ({diverged} of {len(scores) + diverged} diverged)" if diverged else ""
    return f"{statistics.mean(scores):.2f}{spread}{lost}"


def write_report(
    arms: list[Arm], out: Path, *, title: str, command: str, launch: str, overrides: Sequence[str] = ()
) -> str:
    """Writes study.md, .json, .png and .html into `out`; returns the table and the verdict as text for the
    terminal.

    `launch`: seeds and ranks in words, where they say something. `overrides`: what makes every arm another
    experiment than its recipe.
    """
    table, verdict, origin = markdown_table(arms), verdicts(arms), provenance(arms, command)
    rows = [_as_row(arm) for arm in arms]
    data = {
        "launch": launch,
        "overrides": list(overrides),
        "arms": rows,
        "table": table,
        "verdicts": verdict,
        "provenance": origin,
    }
    draw(arms, out / "study.png")
    picture = base64.b64encode((out / "study.png").read_bytes()).decode()
    (out / "study.md").write_text(
        f"{table}\n\n" + "\n".join(f"- {line}" for line in verdict) + f"\n\n{origin}\n"
    )
    (out / "study.json").write_text(json.dumps(data, indent=1) + "\n")
    (out / "study.html").write_text(_page(arms, title, verdict, origin, picture))
    return "\n".join([table, "", *verdict, "", f"{out}/study.html, {out}/study.png"])


def markdown_table(arms: list[Arm]) -> str:
    head = ["recipe", "batch", "steps", "peak lr", f"{arms[0].primary_metric.label} %, mean ± std", "n"]
    body = [
        [
            arm.name,
            f"{arm.batch_size:,}",
            f"{arm.steps:,}",
            f"{arm.peak_lr:.4g}",
            arm.cell,
            str(len(arm.scores)),
        ]
        for arm in arms
    ]
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *body]
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def verdicts(arms: list[Arm]) -> list[str]:
    """What the numbers say about each arm against the reference, in a sentence; the interval is two standard
    errors of the difference.
    """
    return [line for arm in arms for line in _verdict(arm, arms[0])]


def _verdict(arm: Arm, reference: Arm) -> list[str]:
    lost = (
        [f"{arm.name}: {len(arm.diverged)} of {len(arm.diverged) + len(arm.scores)} runs diverged"]
        if arm.diverged
        else []
    )
    if arm is reference or arm.mean is None or reference.mean is None:
        return lost
    gap = arm.mean - reference.mean
    words = "gains" if (gap > 0) == arm.primary_metric.higher_is_better else "loses"
    interval, remark = certainty(gap, (arm.std, len(arm.scores)), (reference.std, len(reference.scores)))
    return [*lost, f"{arm.name} {words} {abs(gap):.2f}{interval} points against {reference.name}{remark}"]


def certainty(gap: float, *samples: tuple[float, int]) -> tuple[str, str]:
    """What stands behind a gap of two means: its interval, two standard errors of the difference, and what
    that leaves of it.

    `samples`: standard deviation and number of runs of either mean.
    """
    if min(count for _, count in samples) == 1:
        return "", "; a single run says nothing of the spread"
    error = 2 * sum(std**2 / count for std, count in samples) ** 0.5
    return f" ± {error:.2f}", "" if abs(gap) > error else ": no difference that these seeds can show"


def origin_of(summary: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return f"commit {summary['commit']} on {summary['hardware']}; {versions}"


def provenance(arms: list[Arm], command: str) -> str:
    return provenance_of(set().union(*(arm.origins for arm in arms)), command)


def provenance_of(origins: set[str], command: str) -> str:
    return f"{command}; {date.today()}; {' | '.join(sorted(origins))}"


def _as_row(arm: Arm) -> dict[str, Any]:
    return {
        "recipe": arm.name, "title": arm.title, "batch_size": arm.batch_size, "steps": arm.steps, "peak_lr": arm.peak_lr, "n":
        len(arm.scores), "diverged": len(arm.diverged), "label": arm.primary_metric.label, arm.primary_metric.name: arm.scores, "mean": arm.mean,
        "std": arm.std, "seconds": arm.seconds,
    }  # fmt: skip


def draw(arms: list[Arm], path: Path) -> None:
    """Training loss and the headline metric over epochs: the mean as a line, every seed as a thin one; a
    cross where a run diverged.
    """
    figure, (loss_axes, score_axes) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    lengths = [arm.epochs for arm in arms]
    as_shares = max(lengths) > 3 * min(lengths)  # on one axis of epochs the short runs would be a stroke
    for number, arm in enumerate(arms):
        style = look(number)
        label = f"{arm.name} (batch {arm.batch_size:,})"
        unit = arm.epochs if as_shares else 1.0
        for axes, curves in ((loss_axes, arm.loss_curves), (score_axes, arm.score_curves)):
            for curve in curves:
                axes.plot(curve[0] / unit, curve[1], **style, linewidth=0.6, alpha=0.35)
            if curves:
                few = "o" if len(curves[0][0]) < 10 else None  # a line through one evaluation is no line
                epochs, means = _mean_curve(curves)
                axes.plot(epochs / unit, means, **style, linewidth=2, marker=few, label=label)
        if arm.diverged:
            # At the upper edge: the last losses before the end would take the whole axis.
            edge = dict(transform=loss_axes.get_xaxis_transform(), clip_on=False)
            named = f"{label}: {len(arm.diverged)} of {len(arm.diverged) + len(arm.scores)} diverged"
            loss_axes.plot(
                np.array(arm.diverged) / unit,
                [1.0] * len(arm.diverged),
                "x",
                color=style["color"],
                label=named,
                **edge,
            )
    position = "share of the run" if as_shares else "epoch"
    loss_axes.set(xlabel=position, ylabel="training loss (nats)", yscale="log", title="Training loss")
    primary_metric = arms[0].primary_metric
    score_axes.set(
        xlabel=position,
        ylabel=f"{primary_metric.label} (%)",
        title=f"Validation: {primary_metric.label}",
        ylim=(0, None),
    )
    if not primary_metric.higher_is_better:
        error_axis(score_axes, [arm.mean for arm in arms])
    score_axes.set_xlim(right=score_axes.get_xlim()[1] * 1.06)
    _name_the_ends(score_axes, arms, as_shares)
    loss_axes.legend(frameon=False, fontsize=9)
    for axes in (loss_axes, score_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def error_axis(axes: Axes, means: Sequence[float | None]) -> None:
    """Linear below 1%, so that an error of 0 has a place, logarithmic above, so that 1% and 2% can be told
    apart. It begins at a mark at or below half the best of `means`: where nothing comes near 0, the axis does
    not either.
    """
    marks = (0, 1, 2, 5, 10, 20, 50, 100)
    best = min((mean for mean in means if mean is not None), default=0.0)
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    axes.set_yticks(marks, [str(mark) for mark in marks])
    axes.set_ylim(max(mark for mark in marks if mark <= best / 2), 100)


def _name_the_ends(axes: Axes, arms: list[Arm], as_shares: bool) -> None:
    """The mean score beside each curve's end, moved up where two would lie on each other."""
    least = 12 * axes.figure.dpi / 72  # a line of text, in pixels
    occupied = -math.inf
    ended = [(number, arm, arm.mean) for number, arm in enumerate(arms) if arm.mean is not None]
    for number, arm, mean in sorted(ended, key=lambda each: each[2]):
        x, y = axes.transData.transform(
            (arm.score_curves[0][0][-1] / (arm.epochs if as_shares else 1.0), mean)
        )
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


_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.35rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%;height:auto}small{color:#666}i{display:inline-block;width:.8em;height:.8em}"""


def _page(arms: list[Arm], title: str, verdict: list[str], origin: str, picture: str) -> str:
    rows = "".join(
        f'<tr><td><i style="background:{look(number)["color"]}"></i> <b>{html.escape(arm.name)}</b><br>'
        f"<small>{html.escape(arm.title)}</small></td>"
        f'<td class="n">{arm.batch_size:,}</td><td class="n">{arm.steps:,}</td><td '
        f'class="n">{arm.peak_lr:.4g}</td>'
        f'<td class="n">{arm.cell}</td><td class="n">{len(arm.scores)}</td></tr>'
        for number, arm in enumerate(arms)
    )
    label = html.escape(arms[0].primary_metric.label)
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in verdict)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><ul>{lines}</ul>"
        f'<img alt="training loss and {label} over epochs, one line per seed" '
        f'src="data:image/png;base64,{picture}">'
        f"<table><tr><th>recipe</th><th>batch</th><th>steps</th><th>peak lr</th><th>{label} %, mean ± "
        "std</th><th>seeds</th></tr>"
        f"{rows}</table><p><small>{html.escape(origin)}</small></p></html>\n"
    )
