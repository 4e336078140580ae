"""The report of `sweep`: at each batch size the fewest steps to each goal, the curve through them, and what
the noise scale says.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lbtrain.errors import RecipeError

from ..kit.tables import Table
from ..study.arm import origin_of
from ..study.grid import Point
from ..study.report import provenance_of, write_result
from . import chart
from .critical_batch import fit
from .goals import FEWEST_SIZES, Goal, Target
from .noise import advise, interval_text, size_text, windows
from .runs import Run


def report(points: Sequence[Point], target: Target, out: Path, *, title: str, command: str) -> str:
    """Writes steps.md, .json, .png and .html, and returns the text for the terminal. Raises RecipeError where
    too few batch sizes reached any of the goals.
    """
    runs = {
        size: [[Run(Path(job.run_dir)) for job in each.jobs] for each in points if each.batch_size == size]
        for size in target.batch_sizes
    }
    curves, lines, rows = [], [], []
    for goal in target.goals:
        best = [found for size, own in runs.items() if (found := _best(goal, size, target.rates, own))]
        if len(best) < FEWEST_SIZES:
            reached = f"{goal} was reached at {len(best)} batch sizes"
            lines.append(f"{reached}, and a curve needs {FEWEST_SIZES}")
            continue
        measured, (predicted, said) = fit(best), _prediction(best[len(best) // 2])
        lines += [f"{goal}: {_measured(measured)}; {said}", *_edges(best, target, goal)]
        rows += [_row(goal, each) for each in best]
        curves.append(
            {
                "goal": f"{goal}",
                "value": goal.value,
                "points": [{key: value for key, value in each.items() if key != "runs"} for each in best],
                "measured": measured,
                "predicted": predicted,
            }
        )
    if not curves:
        raise RecipeError(f"{'; '.join(lines)}: choose an easier goal, or raise --epochs")
    summaries = [summary for point in points for summary in point.summaries]
    data = {
        "title": title,
        "command": command,
        "overrides": [],
        "question": vars(target)
        | {"goals": [f"{goal}" for goal in target.goals], "seeds": len(points[0].jobs)},
        "goals": curves,
        "outcomes": lines,
        "provenance": provenance_of({origin_of(summary) for summary in summaries}, command),
    }
    head = ["to", "batch", "steps (each seed)", "examples", "rate"]
    pictures = [chart.sweep_chart(curve) for curve in curves]
    return write_result(out, "steps", title, data, pictures, [Table(head, rows, align="lrlrr")])


def _measured(found: dict[str, Any]) -> str:
    low, high = found["critical_batch_interval"]
    if low and high:
        return (
            f"measured critical batch {found['critical_batch']:,.0f} (95%: {interval_text(low, high)}), "
            f"fewest steps {found['min_steps']:,.0f}, fewest examples {found['min_examples']:,.0f}"
        )
    if not (low or high):
        return "the steps do not bound the critical batch: measure more --seeds, or further --batch-sizes"
    missing = "larger" if low else "smaller"
    return (
        f"measured critical batch {interval_text(low, high)} (95%), as no bend shows for certain: measure "
        f"{missing} --batch-sizes, or more --seeds"
    )


def _edges(best: Sequence[dict[str, Any]], target: Target, goal: Goal) -> list[str]:
    """Where the best rate may lie outside of those that were tried."""
    found = []
    for rate, word in ((min(target.rates), "smaller"), (max(target.rates), "larger")):
        if sizes := [f"{each['batch_size']:,}" for each in best if each["rate"] == rate]:
            where = f"{goal}: at batch {', '.join(sizes)}"
            found.append(f"{where} no {word} rate than the best was tried: widen --rates")
    return found


def _row(goal: Goal, best: dict[str, Any]) -> list[str]:
    return [
        f"{goal}",
        f"{best['batch_size']:,}",
        f"{best['steps']:,.1f} ({', '.join(f'{steps:,.1f}' for steps in best['each'])})",
        f"{best['steps'] * best['batch_size']:,.0f}",
        f"x {best['rate']:g}",
    ]


def _best(goal: Goal, size: int, rates: Sequence[float], tried: Sequence[list[Run]]) -> dict[str, Any] | None:
    """The rate that needs the fewest steps, among those with which every seed got there. `tried`: the runs
    with each of the rates.
    """
    found: list[dict[str, Any]] = []
    for rate, runs in zip(rates, tried, strict=True):
        steps = [each for run in runs if (each := goal.steps(run)) is not None]
        if len(steps) == len(runs):
            mean = sum(steps) / len(steps)
            found.append({"batch_size": size, "rate": rate, "steps": mean, "each": steps, "runs": runs})
    return min(found, key=lambda each: each["steps"], default=None)


def _prediction(best: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """What the noise scale says, as data and as a sentence; no data where it says nothing.

    From the noise rows of all seeds of one point, each up to the goal; the measurements of one step weigh
    alike.
    """
    rows = [
        row
        for run, steps in zip(best["runs"], best["each"], strict=True)
        for row in run.rows("noise")
        if row["step"] <= steps
    ]
    rows.sort(key=lambda row: row["examples"])
    where = f"the noise scale of the run at batch {best['batch_size']}"
    try:
        predicted = advise(windows(rows))
    except RecipeError:
        return (
            None,
            f"{where} says no critical batch in its {len(rows)} measurements: more --seeds measure more",
        )
    interval = interval_text(*predicted.critical_batch_interval)
    outcome = f"{where} says {size_text(predicted.critical_batch)} (95%: {interval})"
    return {**vars(predicted), "from_batch": best["batch_size"], "measurements": len(rows)}, outcome
