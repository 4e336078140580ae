"""The report of a study: table, curves and a page, from the run directories alone."""

import ast
import base64
import html
import json
import statistics
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from lbtrain.tasks import Headline

# Okabe & Ito's colours, told apart by colour-blind eyes and in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", ":", "-.")


def look(number: int) -> dict[str, Any]:
    """Colour and dashes of curve `number` (from 0), as matplotlib takes them: the colours repeat, with other dashes."""
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _DASHES[number // len(_COLOURS) % len(_DASHES)]}


@dataclass(frozen=True)
class Arm:
    """One recipe over all seeds. Scores in percent; curves as (epochs, one row of values per seed)."""

    name: str
    title: str
    batch_size: int
    peak_lr: float
    steps: int
    headline: Headline
    scores: list[float]
    """Of the headline metric, one per seed."""
    seconds: list[float]
    loss_curve: tuple[Any, Any]
    score_curve: tuple[Any, Any]
    origins: set[str]
    """Commit, hardware and versions of the runs, as they wrote them; one unless a study was continued elsewhere or later."""

    @classmethod
    def read(cls, recipe: Path, out: Path, seeds: list[int]) -> "Arm":
        folders = [out / recipe.stem / f"seed{seed}" for seed in seeds]
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
        headline = Headline(**summaries[0]["headline"])
        plan = json.loads((folders[0] / "plan.json").read_text())
        rows = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in folders]
        return cls(
            name=recipe.stem,
            title=(ast.get_docstring(ast.parse(recipe.read_text())) or recipe.stem).splitlines()[0],
            batch_size=plan["batch_size"],
            peak_lr=plan["learning_rate"]["peak"],
            steps=plan["total_steps"],
            headline=headline,
            scores=[summary[headline.name] for summary in summaries],
            seconds=[summary["seconds"] for summary in summaries],
            loss_curve=_curve(rows, "train", "loss"),
            score_curve=_curve(rows, "eval", headline.name),
            origins={origin_of(summary) for summary in summaries},
        )

    @property
    def epochs(self) -> float:
        """How long a run is: its last evaluation is at its end."""
        return float(self.score_curve[0][-1])

    @property
    def mean(self) -> float:
        return statistics.mean(self.scores)

    @property
    def std(self) -> float:
        """Of one run (n - 1 in the denominator); 0 for a single seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def _curve(rows: list[list[dict[str, Any]]], kind: str, value: str) -> tuple[Any, Any]:
    picked = [[row for row in run if row["kind"] == kind] for run in rows]
    return np.array([row["epoch"] for row in picked[0]]), np.array([[row[value] for row in run] for run in picked])


def write_report(arms: list[Arm], out: Path, *, title: str, command: str) -> str:
    """Writes study.md, .json, .png and .html into `out`; returns the table and the verdict as text for the terminal."""
    table, verdict, origin = markdown_table(arms), verdicts(arms), provenance(arms, command)
    data = {"arms": [_as_row(arm) for arm in arms], "table": table, "verdicts": verdict, "provenance": origin}
    draw(arms, out / "study.png")
    picture = base64.b64encode((out / "study.png").read_bytes()).decode()
    (out / "study.md").write_text(f"{table}\n\n" + "\n".join(f"- {line}" for line in verdict) + f"\n\n{origin}\n")
    (out / "study.json").write_text(json.dumps(data, indent=1) + "\n")
    (out / "study.html").write_text(_page(arms, title, verdict, origin, picture))
    return "\n".join([table, "", *verdict, "", f"{out}/study.html, {out}/study.png"])


def markdown_table(arms: list[Arm]) -> str:
    head = ["recipe", "batch", "steps", "peak lr", f"{arms[0].headline.label} %, mean ± std", "n"]
    body = [
        [arm.name, f"{arm.batch_size:,}", f"{arm.steps:,}", f"{arm.peak_lr:.4g}", f"{arm.mean:.2f} ± {arm.std:.2f}", str(len(arm.scores))]
        for arm in arms
    ]
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in [head, *body]]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def verdicts(arms: list[Arm]) -> list[str]:
    """What the numbers say about each arm against the reference, in a sentence; the interval is two standard errors of the difference."""
    reference = arms[0]
    lines = []
    for arm in arms[1:]:
        gap = arm.mean - reference.mean
        error = 2 * (arm.std**2 / len(arm.scores) + reference.std**2 / len(reference.scores)) ** 0.5
        words = "gains" if (gap > 0) == arm.headline.higher_is_better else "loses"
        apart = "" if abs(gap) > error else ": no difference that these seeds can show"
        lines.append(f"{arm.name} {words} {abs(gap):.2f} ± {error:.2f} points against {reference.name}{apart}")
    return lines


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
        len(arm.scores), arm.headline.name: arm.scores, "mean": arm.mean, "std": arm.std, "seconds": arm.seconds,
    }  # fmt: skip


def draw(arms: list[Arm], path: Path) -> None:
    """Training loss and the headline metric over epochs: the mean as a line, every seed as a thin one.

    Over the share of the run where the longest arm is more than twice as long as the shortest, which would be a stroke at the left.
    """
    figure, (loss_axes, score_axes) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    shortest, longest = min(arm.epochs for arm in arms), max(arm.epochs for arm in arms)
    alike = longest <= 2 * shortest
    xlabel = "epoch" if alike else f"share of the run ({shortest:g} to {longest:g} epochs)"
    for number, arm in enumerate(arms):
        style = look(number)
        label = f"{arm.name} (batch {arm.batch_size:,})"
        unit = 1.0 if alike else arm.epochs
        for axes, (epochs, values) in ((loss_axes, arm.loss_curve), (score_axes, arm.score_curve)):
            axes.plot(epochs / unit, values.T, **style, linewidth=0.6, alpha=0.35)
            few = "o" if len(epochs) < 10 else None  # a line through one evaluation is no line
            axes.plot(epochs / unit, values.mean(0), **style, linewidth=2, marker=few, label=label)
        end = arm.epochs / unit, arm.mean
        score_axes.annotate(f" {arm.mean:.1f}%", end, color=style["color"], va="center", fontsize=10)
    loss_axes.set(xlabel=xlabel, ylabel="training loss (nats)", yscale="log", title="Training loss")
    headline = arms[0].headline
    score_axes.set(xlabel=xlabel, ylabel=f"{headline.label} (%)", title=f"Validation: {headline.label}", ylim=(0, None))
    if not headline.higher_is_better:
        # Linear below 1%, so that an error of 0 has a place, logarithmic above, so that 1% and 2% can be told apart.
        score_axes.set_yscale("symlog", linthresh=1)
        score_axes.set_ylim(0, 100)
        score_axes.set_yticks([0, 1, 2, 5, 10, 20, 50, 100], ["0", "1", "2", "5", "10", "20", "50", "100"])
    score_axes.set_xlim(right=score_axes.get_xlim()[1] * 1.06)
    loss_axes.legend(frameon=False, fontsize=9)
    for axes in (loss_axes, score_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    plt.close(figure)


_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.35rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%;height:auto}small{color:#666}i{display:inline-block;width:.8em;height:.8em}"""


def _page(arms: list[Arm], title: str, verdict: list[str], origin: str, picture: str) -> str:
    rows = "".join(
        f'<tr><td><i style="background:{look(number)["color"]}"></i> <b>{html.escape(arm.name)}</b><br>'
        f"<small>{html.escape(arm.title)}</small></td>"
        f'<td class="n">{arm.batch_size:,}</td><td class="n">{arm.steps:,}</td><td class="n">{arm.peak_lr:.4g}</td>'
        f'<td class="n">{arm.mean:.2f} ± {arm.std:.2f}</td><td class="n">{len(arm.scores)}</td></tr>'
        for number, arm in enumerate(arms)
    )
    label = html.escape(arms[0].headline.label)
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in verdict)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><ul>{lines}</ul>"
        f'<img alt="training loss and {label} over epochs, one line per seed" src="data:image/png;base64,{picture}">'
        f"<table><tr><th>recipe</th><th>batch</th><th>steps</th><th>peak lr</th><th>{label} %, mean ± std</th><th>seeds</th></tr>"
        f"{rows}</table><p><small>{html.escape(origin)}</small></p></html>\n"
    )
