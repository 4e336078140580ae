"""`batch RUN_DIR`: past which batch size nothing is won any more, from the noise that the run measured while
it trained.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from lbtrain.errors import RecipeError
from lbtrain.plan.plan import make_plan
from lbtrain.runs.files import write_whole

from ..kit import pages
from ..kit.charts import save
from ..kit.tables import Table
from ..study.arm import origin_of
from . import chart
from .noise import (
    REMEDY,
    Advice,
    Window,
    advise,
    batch_schedule,
    interval_text,
    most_windows,
    size_text,
    windows,
)
from .runs import Run


def batch(run: Run, until_loss: float | None = None) -> str:
    """Writes landscape/batch.json, batch.png and batch.html, layers.png where layers were measured; returns
    the text for the terminal.

    `until_loss` leaves out what was measured after the training loss first was below it: a stretch in which
    nothing is left to learn has little gradient and much noise, and would speak for the whole run.
    """
    rows = [row for row in run.rows("noise") if row["examples"] <= _end(run, until_loss)]
    found = windows(rows)
    advice = advise(found)
    schedule, rejection = _schedule(run, found)
    table = [_table_row(advice, size) for size in _sizes(advice)]
    result = {
        **dataclasses.asdict(advice),
        "measurements": len(rows),
        "run_batch": rows[-1]["large_batch"],
        "table": table,
        "windows": [_window(window) for window in found],
        "schedule": schedule,
    }
    run.folder.mkdir(exist_ok=True)
    write_whole(run.folder / "batch.json", json.dumps(result, indent=1) + "\n")
    charts = chart.batch_charts(advice, found, run.plan["train_examples"], schedule)
    pictures = [save(charts, run.folder / "batch.png")]
    if measured := run.rows("layers"):
        layers = chart.layer_charts(measured, run.plan["train_examples"])
        pictures.append(save(layers, run.folder / "layers.png"))
        charts += layers
    lines = _outcome(advice, found, schedule, rejection, run)
    origin = f"{len(rows)} measurements over {rows[-1]['examples']:,} examples" + (
        f"; {origin_of(run.summary)}" if run.summary else ""
    )
    title = f"How large a batch pays: {run.path.name}"
    shown = _as_table(table)
    write_whole(run.folder / "batch.html", pages.report(title, lines, charts, [shown], origin))
    return "\n".join([*lines, "", shown.text(), "", *map(str, [*pictures, run.folder / "batch.html"])])


def _schedule(run: Run, found: Sequence[Window]) -> tuple[list[str], str]:
    """A batch schedule as overrides of the run's recipe; none, and the reason, where the plan is rejected on
    as many ranks.
    """
    whole = math.lcm(run.plan["bn_batch_size"], run.recipe.loss_batch_size)
    words = batch_schedule(found, train_examples=run.plan["train_examples"], whole=whole)
    # The next run need not measure again, which a batch of one micro-batch could not.
    unmeasured = run.recipe.vary(measure=dict(noise_scale="0it", layers=False))
    try:
        make_plan(unmeasured.with_overrides(words), run.plan["world_size"], engine=run.plan["engine"])
    except RecipeError as error:
        return [], str(error)
    return words, ""


def _end(run: Run, until_loss: float | None) -> float:
    """Examples seen when the training loss first was below `until_loss`."""
    if until_loss is None:
        return math.inf
    return min((row["examples"] for row in run.rows("train") if row["loss"] < until_loss), default=math.inf)


def _sizes(advice: Advice) -> list[int]:
    """Powers of two from an eighth of the critical batch to eight times it."""
    middle = max(0, round(math.log2(advice.critical_batch)))
    return [2**power for power in range(max(0, middle - 3), middle + 4)]


def _table_row(advice: Advice, size: int) -> dict[str, float]:
    steps, examples = advice.steps(size), advice.examples(size)
    return {
        "batch_size": size,
        "steps": steps,
        "examples": examples,
        "steps_over_min": steps / advice.min_steps,
        "examples_over_min": examples / advice.min_examples,
    }


def _window(window: Window) -> dict[str, Any]:
    noise = window.noise
    return {
        "start": window.start,
        "end": window.end,
        "steps": window.steps,
        "noise_scale": noise.value,
        "noise_scale_interval": [noise.low, noise.high if math.isfinite(noise.high) else None],
    }


def _outcome(
    advice: Advice, found: Sequence[Window], schedule: list[str], rejection: str, run: Run
) -> list[str]:
    interval = interval_text(*advice.critical_batch_interval)
    lines = [
        f"critical batch {size_text(advice.critical_batch)} (95%: {interval}): there a run takes twice the "
        "fewest steps and examples; a batch several times as large costs examples and saves next to no steps",
        f"this run's progress would take at least {advice.min_steps:,.0f} steps, and at least "
        f"{advice.min_examples:,.0f} examples",
    ]
    if schedule:
        lines.append(
            f"a batch that follows the noise: {' '.join(schedule)}  (growing the batch stands for decaying "
            "the rate: not both)"
        )
    else:
        lines.append(f"no batch schedule that follows the noise: its plan is rejected, {rejection}")
    if float(run.plan["batch_size"]) > 4 * advice.critical_batch:
        lines.append(
            "this run's batch is past that point: the same progress at a smaller batch, with its rate, "
            "costs fewer examples"
        )
    if len(found) < most_windows(sum(len(window.measured) for window in found)):
        lines.append(
            f"the noise scale is averaged over longer parts of the run, {len(found)} in all, since the "
            f"gradient does not show in shorter ones. {REMEDY}. Or leave out with --until-loss what had "
            "nothing left to learn"
        )
    return lines


def _as_table(table: Sequence[dict[str, float]]) -> Table:
    rows = [
        [
            f"{row['batch_size']:,}",
            f"{row['steps']:,.0f}",
            f"{row['examples']:,.0f}",
            f"{row['steps_over_min']:.2f}",
            f"{row['examples_over_min']:.2f}",
        ]
        for row in table
    ]
    return Table(
        ["batch", "steps", "examples", "steps / fewest", "examples / fewest"],
        rows,
        title="Expected steps and examples for this run's progress",
        align="rrrrr",
    )
