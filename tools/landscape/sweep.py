"""`sweep RECIPE`: steps to a training loss at many batch sizes, measured, against what the noise scale of one
of the runs says.

McCandlish et al. 2018, section 3: at each batch the rate is constant and the best of several; steps =
steps_min + examples_min / batch is fitted to the best ones in logarithms. The prediction comes from the run
at the batch nearest to the middle, up to the same loss.
"""

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lbtrain.data import dataset_info
from lbtrain.errors import RecipeError
from lbtrain.launch.world import detect_world
from lbtrain.plan.plan import make_plan
from lbtrain.plan.statistics import model_statistics
from lbtrain.recipe import Recipe
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.records import write_whole

from ..study.report import origin_of, provenance_of
from . import chart, page
from .cache import Bars
from .noise import advise, windows
from .runs import Run


@dataclass(frozen=True)
class Question:
    """Steps until the training loss, averaged over about `LOG_EXAMPLES` examples, is at most `loss`, for each
    batch with each rate.
    """

    batches: tuple[int, ...]
    rates: tuple[float, ...]
    """Factors on the recipe's own rate at its own batch, scaled with the square root of the batch."""
    seeds: int
    loss: float
    epochs: float
    least_steps: int

    def runs(self) -> list[tuple[int, float, int]]:
        """(batch, rate factor, seed), large batches first: they are the quickest to tell that a rate
        diverges.
        """
        return [
            (size, rate, seed)
            for seed in range(self.seeds)
            for size in sorted(self.batches, reverse=True)
            for rate in self.rates
        ]


LOG_EXAMPLES = 256


def sweep(recipe: Recipe, question: Question, out: Path, *, command: str) -> str:
    """Trains what is not there yet, then writes sweep.json, sweep.png and sweep.html into `out`, with the
    `command` that asked for them.

    Raises RecipeError, before anything is trained, if `out` holds runs of another recipe or with other
    settings, or if a run cannot be.
    """
    from lbtrain.main import run

    planned = {_folder(out, *each): arm(recipe, question, *each) for each in question.runs()}
    for folder, own in planned.items():
        if changed := RunDirectory(folder).changes(own):
            raise RecipeError(
                f"{folder} holds a run of another sweep ({'; '.join(changed)}): choose another --out, or "
                "undo the change"
            )
    _check_plans(recipe, question, planned.values())
    with Bars(enabled=True).watching("sweep: runs", len(planned)) as tick:
        for folder, own in planned.items():
            if not (folder / "ended").exists():
                _train(run, own, folder)
            tick()
    return report(question, out, command=command)


def _check_plans(recipe: Recipe, question: Question, planned: Iterable[Recipe]) -> None:
    """Raises RecipeError, naming the batches that work, if the plan of a run is refused."""
    world, counted = detect_world(), model_statistics(recipe, dataset_info(recipe.data))
    refused: dict[int, str] = {}
    for own in planned:
        try:
            make_plan(own, world.world_size, engine=own.engine_under(world.launcher), statistics=counted)
        except RecipeError as error:
            refused[own.batch_size] = str(error)
    if refused:
        working = [str(size) for size in question.batches if size not in refused]
        remedy = f"--batches {' '.join(working)} would do" if working else "none of the batches would do"
        reasons = "; ".join(f"{size}: {reason}" for size, reason in sorted(refused.items()))
        raise RecipeError(
            f"{remedy}: a sweep measures the noise scale in every run, and the plan refuses {reasons}"
        )


def arm(recipe: Recipe, question: Question, size: int, rate: float, seed: int) -> Recipe:
    """One run: a constant rate, no warm-up, as many epochs or steps as the question gives it."""
    steps = max(
        question.least_steps, round(question.epochs * dataset_info(recipe.data).train_examples / size)
    )
    peak = rate * recipe.schedule.base_lr * (size / recipe.schedule.base_batch_size) ** 0.5
    schedule = dict(base_lr=peak, rule="none", warmup="0ep", decay="none", batch_growth=[])
    ends: dict[str, Any] = dict(
        duration=f"{steps}it", evaluate_every=f"{steps}it", checkpoint=dict(every=f"{steps}it")
    )
    logged = f"{max(1, LOG_EXAMPLES // size)}it"
    return recipe.vary(
        batch_size=size,
        seed=seed,
        schedule=schedule,
        log_every=logged,
        measure=dict(noise_scale="2it"),
        **ends,
    )


def _train(run: Any, recipe: Recipe, folder: Path) -> None:
    """A run that diverges is a result: it does not reach the loss."""
    from lbtrain.errors import Diverged

    try:
        run(recipe.vary(run_dir=str(folder)), folder.name, on_screen=False)
        ended = "finished"
    except Diverged as error:
        ended = str(error)
    write_whole(folder / "ended", ended + "\n")


def _folder(out: Path, size: int, rate: float, seed: int) -> Path:
    return out / f"batch{size}" / f"rate{rate:g}_seed{seed}"


def steps_to(run: Run, loss: float) -> float | None:
    """The middle of the first logged stretch whose average training loss is low enough; None if none is."""
    before = 0
    for row in run.rows("train"):
        if row["loss"] <= loss:
            return (before + int(row["step"])) / 2
        before = int(row["step"])
    return None


def report(question: Question, out: Path, *, command: str) -> str:
    """Writes sweep.json, sweep.png and sweep.html from the runs in `out`, and returns the text for the
    terminal.

    Raises RecipeError where too few batch sizes reached the loss for a curve.
    """
    best = [point for size in question.batches if (point := _best(question, out, size))]
    if len(best) < 3:
        raise RecipeError(
            f"the loss {question.loss} was reached at {len(best)} batch sizes only: raise --loss or --epochs"
        )
    fitted = fit([point["batch_size"] for point in best], [point["steps"] for point in best])
    middle = best[len(best) // 2]
    predicted, format_outcome = _prediction(question, out, middle)
    origins = _origins(question, out)
    data = {
        "question": vars(question),
        "command": command,
        "date": f"{datetime.date.today()}",
        "origins": list(origins.values()),
        "loss": question.loss,
        "points": best,
        "measured": {
            "critical_batch": fitted[1] / fitted[0],
            "min_steps": fitted[0],
            "min_examples": fitted[1],
        },
        "predicted": predicted,
    }
    write_whole(out / "sweep.json", json.dumps(data, indent=1) + "\n")
    chart.draw_sweep(data, out / "sweep.png")
    lines = [
        f"measured: critical batch {fitted[1] / fitted[0]:,.0f}, fewest steps {fitted[0]:,.0f}, fewest "
        f"examples {fitted[1]:,.0f}",
        format_outcome,
    ]
    table = page.Table(
        f"Best of {len(question.rates)} rates, steps to a training loss of {question.loss}, mean of "
        f"{question.seeds} seeds",
        ["batch", "steps", "examples", "rate"],
        [
            [
                f"{p['batch_size']}",
                f"{p['steps']:.0f}",
                f"{p['steps'] * p['batch_size']:,.0f}",
                f"x {p['rate']:g}",
            ]
            for p in best
        ],
    )
    origin = provenance_of(set(origins), command)
    write_whole(
        out / "sweep.html",
        page.page("Steps to a loss over batch sizes", lines, [out / "sweep.png"], [table], origin),
    )
    return "\n".join([*lines, str(out / "sweep.png"), str(out / "sweep.html")])


def _origins(question: Question, out: Path) -> dict[str, dict[str, Any]]:
    """Commit, hardware and versions of the finished runs, by their words; one unless a sweep was continued
    elsewhere or later.
    """
    paths = [_folder(out, *each) / "summary.json" for each in question.runs()]
    summaries = [json.loads(path.read_text()) for path in paths if path.exists()]
    return {
        origin_of(summary): {key: summary[key] for key in ("commit", "hardware", "versions")}
        for summary in summaries
    }


def _best(question: Question, out: Path, size: int) -> dict[str, Any] | None:
    """The rate that needs the fewest steps, among those with which every seed got there."""
    found: list[dict[str, Any]] = []
    for rate in question.rates:
        steps = [
            steps_to(Run(_folder(out, size, rate, seed)), question.loss) for seed in range(question.seeds)
        ]
        known = [each for each in steps if each is not None]
        if len(known) == question.seeds:
            found.append({"batch_size": size, "rate": rate, "steps": sum(known) / len(known), "each": known})
    return min(found, key=lambda point: point["steps"]) if found else None


def fit(batches: Sequence[float], steps: Sequence[float]) -> tuple[float, float]:
    """(steps_min, examples_min) of steps = steps_min + examples_min / batch, by least squares on logarithms."""
    from scipy.optimize import least_squares

    sizes, seen = np.array(batches, dtype=float), np.log(np.array(steps, dtype=float))
    start = np.log([min(steps), min(np.array(steps) * sizes)])
    found = least_squares(lambda logs: np.log(np.exp(logs[0]) + np.exp(logs[1]) / sizes) - seen, start).x
    return float(np.exp(found[0])), float(np.exp(found[1]))


def _prediction(question: Question, out: Path, point: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """What the noise scale says, as data and in words; no data where it says nothing.

    From the noise rows of all seeds of one point, each up to the loss; the measurements of one step weigh
    alike.
    """
    rows: list[dict[str, Any]] = []
    for seed, steps in enumerate(point["each"]):
        run = Run(_folder(out, point["batch_size"], point["rate"], seed))
        rows += [row for row in run.rows("noise") if row["step"] <= steps]
    rows.sort(key=lambda row: row["examples"])
    where = f"the noise scale of the run at batch {point['batch_size']}"
    try:
        predicted = advise(windows(rows))
    except RecipeError:
        return (
            None,
            f"{where} says no critical batch in its {len(rows)} measurements: more --seeds measure more",
        )
    low, high = predicted.critical_batch_interval
    said = (
        f"{where} says {predicted.critical_batch:,.0f} ({low:,.0f} to "
        f"{'unbounded' if high is None else f'{high:,.0f}'})"
    )
    return {**vars(predicted), "from_batch": point["batch_size"], "measurements": len(rows)}, said
