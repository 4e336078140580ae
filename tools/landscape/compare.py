"""`compare SMALL_RUN LARGE_RUN`: why two runs of one network end apart, in one page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from lbtrain.analysis.objective import Objective, eval_mode
from lbtrain.nn import GhostStatistics
from lbtrain.runs.files import write_whole
from lbtrain.runs.provenance import commit, hardware

from ..kit import pages
from ..kit.charts import save
from ..kit.progress import bar
from ..kit.tables import Table
from ..study.arm import score_metric_of
from .cache import cached
from .compare_chart import distance_chart, line_chart, spectra_chart
from .loss import LossOptions, TrainingLoss, check_measurable
from .measures import KESKAR, Measures, check_same_function
from .runs import DistContext, Run

ALPHAS = [-1 + number / 8 for number in range(25)]
"""Places on the line: 0 is the first run, 1 the second (Keskar et al. 2017, section 2.2.1: from -1 to 2)."""
FAR_FROM_CONVERGED = 4
"""How many times the loss of the better run another may have before its sharpness is said to be no minimum's.
"""


@dataclass(frozen=True)
class LogFit:
    """distance ~ intercept + slope * ln(step), by least squares from step `first` to `last`; `explained`: its
    share of the variance.
    """

    intercept: float
    slope: float
    explained: float
    first: int
    last: int

    def at(self, step: Any) -> Any:
        return self.intercept + self.slope * np.log(step)


def fit_log(distances: Sequence[dict[str, Any]], train: Sequence[dict[str, Any]]) -> LogFit | None:
    """Hoffer et al. 2017, section 3: at the high rate of the start the distance from it grows like the
    logarithm of the steps.

    `distances` and `train` are the rows of these kinds. Rows count from where the rate is at its peak, which
    ends the warm-up, as long as it is at least half of that. None for fewer than 3 of them.
    """
    early = _at_high_rate(train)
    rows = [row for row in distances if row["step"] in early]
    if len(rows) < 3:
        return None
    steps, lengths = (np.array([row[key] for row in rows], dtype=float) for key in ("step", "distance"))
    slope, intercept = np.polyfit(np.log(steps), lengths, 1)
    residual = lengths - intercept - slope * np.log(steps)
    explained = 1 - residual.var() / lengths.var()
    return LogFit(float(intercept), float(slope), float(explained), rows[0]["step"], rows[-1]["step"])


def _at_high_rate(train: Sequence[dict[str, Any]]) -> set[int]:
    """Logged steps after the warm-up with at least half of the peak rate, per example: a batch that grows
    instead is a rate that falls.
    """
    rates = {row["step"]: row["lr"] / row["batch_size"] for row in train}
    peak = max(rates, key=lambda step: rates[step], default=0)  # the first, where several are alike
    return {step for step, rate in rates.items() if step >= peak and rate >= rates[peak] / 2}


def compare(small: Run, large: Run, out: Path, context: DistContext, options: LossOptions) -> str:
    """Measures what is missing and, on rank 0, writes compare.json, its pictures and compare.html into `out`.
    Collective.

    Raises RecipeError, before anything is measured, for runs that cannot be compared.
    """
    runs = [small, large]
    check_measurable(runs, options, context.world_size)
    check_same_function(runs)
    for run in runs:
        score_metric_of(run.recipe)
    sharpness, spectra = [], []
    for run in runs:
        measures = Measures(run, TrainingLoss(run, context, options))
        sharpness.append(measures.sharpness())
        spectra.append(measures.spectrum())
    del measures  # and the model and images that it holds
    line = along_the_line(small, large, out, context, options)
    if context.rank:
        return ""
    out.mkdir(parents=True, exist_ok=True)
    names = [f"{run.path.name} (batch {run.plan['batch_size']:,})" for run in runs]
    distances = [run.rows("distance") for run in runs]
    fits = [fit_log(rows, run.rows("train")) for rows, run in zip(distances, runs, strict=True)]
    charts = {"line": line_chart(line, names)}
    charts["spectrum"] = spectra_chart([each["density"] for each in spectra], names)
    if all(distances):
        charts["distance"] = distance_chart(distances, fits, names)
    pictures = [save([each], out / f"{name}.png") for name, each in charts.items()]
    table = _table(runs, names, sharpness, spectra, distances, fits)
    lines = _outcome(names, sharpness, spectra, fits, line)
    data = {
        "runs": names,
        "sharpness": sharpness,
        "spectra": spectra,
        "fits": [fit and vars(fit) for fit in fits],
        "line": line,
    }
    write_whole(out / "compare.json", json.dumps(data, indent=1) + "\n")
    settings = (
        f"{options.examples} training examples, batch norm: {options.batch_norm}; commit {commit()} "
        f"on {hardware()}"
    )
    page = pages.report(f"{names[0]} and {names[1]}", lines, list(charts.values()), [table], settings)
    write_whole(out / "compare.html", page)
    return "\n".join([*lines, "", *map(str, [*pictures, out / "compare.html"])])


def along_the_line(
    small: Run, large: Run, out: Path, context: DistContext, options: LossOptions
) -> list[dict[str, float]]:
    """At ALPHAS the training loss, batch norm as in `options`, and the evaluation metric; weights and
    statistics are interpolated.

    The metric is taken in evaluation mode, with `batch` on running statistics that are taken anew
    (`renew_statistics`). The micro-batches are those of `small`, in whose ghost batches both are measured
    here.
    """
    runs, training = (small, large), TrainingLoss(small, context, options)
    options = training.options
    settings = {"checkpoints": [run.whole.checksum for run in runs], "places": ALPHAS, **vars(options)}
    settings |= {"image_size": size} if (size := small.image_size) else {}
    points: list[dict[str, float]] = []
    ends: list[dict[str, torch.Tensor]] = []
    objective = None
    with bar("the line between the two", len(ALPHAS), enabled=context.rank == 0) as tick:
        for number, alpha in enumerate(ALPHAS):

            def measure(alpha: float = alpha) -> dict[str, Any]:
                nonlocal objective
                if objective is None:  # nothing is read where every point is cached
                    ends.extend(run.read_checkpoint().state["model"] for run in runs)
                    objective = training.at(small)
                model, task = objective.model, training.task
                model.load_state_dict(interpolated(ends[0], ends[1], alpha))
                loss = objective.value()
                with eval_mode(model, options.batch_norm):
                    if options.batch_norm == "batch":
                        renew_statistics(objective, context)
                    found = task.evaluate(
                        model,
                        micro_batch_size=options.micro_batch,
                        rank=context.rank,
                        world_size=context.world_size,
                    )
                primary_metric = task.primary_metric
                return {
                    "alpha": alpha,
                    "train_loss": loss,
                    "metric": found.metrics[primary_metric.name],
                    "label": primary_metric.label,
                }

            points.append(cached(out / "line", f"{number:02}", settings, measure, context))
            tick()
    return points


def renew_statistics(objective: Objective, context: DistContext) -> None:
    """Running statistics become the average over the ghost batches of the objective, and batch norm uses
    them; inside `eval_mode`. Collective.

    Those of evaluation batches would depend on the order of the examples, and interpolated ones belong to no
    network.
    """
    layers = GhostStatistics(objective.model).layers
    with torch.no_grad():
        for batch in objective.batches:
            objective.loss(objective.model, batch)
        for layer in layers:
            cast(torch.Tensor, layer.running_mean).copy_(context.mean(layer.step_mean))
            cast(torch.Tensor, layer.running_var).copy_(context.mean(layer.step_var))
            layer.eval()


def interpolated(
    first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], alpha: float
) -> dict[str, torch.Tensor]:
    """(1 - alpha) first + alpha second; variances stay positive, counters are the first's."""
    line = {
        name: _between(tensor, second[name], alpha) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }
    return {
        name: tensor.clamp(min=1e-6) if name.endswith("running_var") else tensor
        for name, tensor in line.items()
    }


def _between(first: torch.Tensor, second: torch.Tensor, alpha: float) -> torch.Tensor:
    """Equal numbers stay, so that those at infinity (bounds of clamps, say) do not become NaN."""
    return torch.where(first == second, first, torch.lerp(first, second, alpha))


def _table(
    runs: Sequence[Run],
    names: Sequence[str],
    sharpness: Sequence[dict[str, Any]],
    spectra: Sequence[dict[str, Any]],
    distances: Sequence[Sequence[dict[str, Any]]],
    fits: Sequence[Any],
) -> Table:
    rows = []
    summaries = [run.summary for run in runs]
    if all("primary_metric" in summary for summary in summaries):
        label = summaries[0]["primary_metric"]["label"]
        rows.append([label, *(f"{summary[summary['primary_metric']['name']]:.2f}" for summary in summaries)])
    rows.append(["training loss", *(f"{loss:.4g}" for loss in _losses(sharpness))])
    rows += [
        [f"sharpness, {kind}", *(f"{each[kind]['value']:.4g}" for each in sharpness)] for kind in sharpness[0]
    ]
    largest = (each["eigenvalues"]["values"] for each in spectra)
    for place, values in enumerate(zip_longest(*largest), 1):  # one may have fewer: its space has ended
        rows.append([f"eigenvalue {place}", *("-" if each is None else f"{each:.4g}" for each in values)])
    rows.append(["smallest eigenvalue", *(f"{each['eigenvalues']['smallest']:.4g}" for each in spectra)])
    rows.append(
        [
            "trace (95%)",
            *(f"{each['trace']['value']:.4g} ({_interval(each['trace']['interval'])})" for each in spectra),
        ]
    )
    if all(fits):
        rows.append(
            [
                "distance from the start: slope per ln(step), early",
                *(f"{fit.slope:.3g} ({fit.explained:.0%} explained)" for fit in fits),
            ]
        )
    if all(distances):
        rows.append(
            [
                "distance from the start, end of the run",
                *(f"{each[-1]['distance']:.3g}" for each in distances),
            ]
        )
    return Table(["", *names], rows, title="Measured at the newest checkpoint of each")


def _losses(sharpness: Sequence[dict[str, Any]]) -> list[float]:
    """Of both runs at their checkpoints, each over its own examples: where the boxes are centred."""
    return [each[KESKAR]["base"] for each in sharpness]


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}"


def _outcome(
    names: Sequence[str],
    sharpness: Sequence[dict[str, Any]],
    spectra: Sequence[dict[str, Any]],
    fits: Sequence[Any],
    line: Any,
) -> list[str]:
    box = [each[KESKAR]["value"] for each in sharpness]
    top = [each["eigenvalues"]["values"][0] for each in spectra]
    lines = [
        f"{names[1]} is {_times(box[1], box[0])} in Keskar's box of 1e-3, and its largest eigenvalue "
        f"{top[1]:.3g} against {top[0]:.3g}",
        _converged(names, _losses(sharpness)),
        "the highest training loss on the line between the two is "
        f"{max(p['train_loss'] for p in line if 0 <= p['alpha'] <= 1):.3g}",
    ]
    if all(fits):
        slopes = " and ".join(f"{fit.slope:.3g} ({fit.explained:.0%} explained)" for fit in fits)
        lines.append(
            f"distance from the start grows by {slopes} per ln(step) after the warm-up, while the rate is "
            "at least half its peak: Hoffer et al. find equal slopes there where the rate is scaled right"
        )
    else:
        lines.append(
            "how the distance from the start grows takes 3 rows of each run after the warm-up, while the "
            "rate is at least half its peak: "
            "train with measure.distance=true, and with a shorter log_every where that is there"
        )
    return lines


def _converged(names: Sequence[str], losses: Sequence[float]) -> str:
    said = f"training losses {losses[0]:.3g} and {losses[1]:.3g}"
    if max(losses) < FAR_FROM_CONVERGED * min(losses):
        return said
    behind = names[losses.index(max(losses))]
    return (
        f"{said}: {behind} is far from where the other got, and what is measured there may be a slope "
        "and not a minimum"
    )


def _times(value: float, reference: float) -> str:
    if reference <= 0 or value <= 0:
        return f"at {value:.3g} against {reference:.3g}"
    ratio = value / reference
    return f"{ratio:.2g} times as sharp" if ratio >= 1 else f"{1 / ratio:.2g} times flatter"
