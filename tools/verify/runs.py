"""Did finished runs of one recipe compute the same? On other ranks, under another engine, with another
micro-batch, or stopped and resumed, a run does the same arithmetic in another order: what differs is
rounding, and this shows how far it has grown.

Compared with the first run: the training loss at every step that both have logged, the evaluations, and the
final weights and running statistics of batch norm: |w - v| / |v|, v being the first run's, each as one
vector. The average of the weights (ema.decay) is compared alike, and the larger of its two distances counts.
How far two correct runs are apart depends on the precision and on how much a step multiplies a difference
(docs/reproducibility.md). In fp32 they agree to 1e-3 where training is stable; where it is not, and in bf16,
compare the final accuracy over seeds.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from lbtrain.errors import RecipeError
from lbtrain.runs.legs import changed_keys, reasons, recorded
from lbtrain.tasks import PrimaryMetric, primary_metric_of

from ..kit import command
from ..kit.charts import Chart, look, tidy
from ..kit.tables import Table
from ..landscape.runs import Run, names_of
from ..study.arm import origin_of
from ..study.report import provenance_of, write_result
from .sharding import Weights
from .traces import without_equal_infinities

EXAMPLES = """
examples:
  lbtrain verify runs runs/one_rank runs/two_ranks runs/resumed
  lbtrain verify runs runs/old_cluster runs/new_cluster --within 1e-5 --out runs/moved

exit status: 0 the weights of all runs agree; 1 those of one do not; 2 these runs cannot be compared
"""


EQUAL = 1e-9
"""Where a chart of differences has those that are smaller, 0 included."""
STATISTICS = ("running_mean", "running_var")
"""How the names of batch norm's running statistics end in a state dict."""


@dataclass(frozen=True)
class Comparison:
    """A run beside the first one."""

    name: str
    run: Run
    first: Run
    metric: PrimaryMetric

    @cached_property
    def loss_differences(self) -> tuple[Any, Any]:
        """Epochs, and |loss - loss0| / |loss0| where both have logged the average of the same steps: the row
        after a restart is one of fewer.
        """
        ours, theirs = _averages(self.run), _averages(self.first)
        both = [key for key in ours if key in theirs]
        losses = np.array([[ours[key]["loss"], theirs[key]["loss"]] for key in both]).reshape(-1, 2)
        apart = np.abs(losses[:, 0] - losses[:, 1]) / np.maximum(np.abs(losses[:, 1]), 1e-30)
        return np.array([ours[key]["epoch"] for key in both]), apart

    @cached_property
    def weights_distance(self) -> float:
        """|w - v| / |v| over all weights as one vector; NaN where one of them is."""
        return _distance(self.run.weights, self.first.weights, statistics=False)

    @cached_property
    def statistics_distance(self) -> float:
        """The same of the running statistics of batch norm; 0 where there are none."""
        return _distance(self.run.weights, self.first.weights, statistics=True)

    @cached_property
    def average_distance(self) -> float:
        """The larger of both distances of the average of the weights; 0 where there is none."""
        states = self.run.average, self.first.average
        both = [_distance(*states, statistics=statistics) for statistics in (False, True)]
        return math.nan if any(map(math.isnan, both)) else max(both)

    @property
    def distances(self) -> tuple[float, float, float]:
        return self.weights_distance, self.statistics_distance, self.average_distance

    def agrees(self, within: float) -> bool:
        return all(distance <= within for distance in self.distances)

    @property
    def score(self) -> float | None:
        """The last evaluation, in percent; None for a run that is not evaluated."""
        found = self.run.summary.get(self.metric.name)
        return None if found is None else float(found)

    def row(self) -> dict[str, Any]:
        return {
            "arm": self.name,
            "recipe": "",
            "engine": self.run.plan["engine"],
            "ranks": self.run.plan["world_size"],
            "steps": self.run.checkpoint.progress.step,
            "label": self.metric.label,
            self.metric.name: self.score,
            "loss_difference": _number(self.loss_differences[1].max()),
            "weights_distance": _number(self.weights_distance),
            "statistics_distance": _number(self.statistics_distance),
            "average_distance": _number(self.average_distance) if self.first.average else None,
        }


def _averages(run: Run) -> dict[tuple[int, int], dict[str, Any]]:
    """The rows of the loss by step and number of images that they are the average of: in rows of older
    versions, which do not say it, of all since the row before.
    """
    found, seen = {}, 0
    for row in run.rows("train"):
        found[row["step"], row.get("averaged_images") or row["examples"] - seen] = row
        seen = row["examples"]
    return found


def _distance(weights: Weights, others: Weights, *, statistics: bool) -> float:
    """Of the running statistics, or of all else, as one vector from that of `others`."""
    names = [
        name
        for name, tensor in others.items()
        if tensor.is_floating_point() and name.endswith(STATISTICS) == statistics
    ]
    if not names:
        return 0.0
    ours, base = (
        torch.cat([state[name].double().flatten() for name in names]) for state in (weights, others)
    )
    a, b = without_equal_infinities(ours, base)
    return float((a - b).norm() / b.norm()) if not torch.equal(a, b) else 0.0


def _number(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None


def add_arguments(commands: Any) -> None:
    """Add the command `runs` to a parser."""
    parser = commands.add_parser(
        "runs", help="did runs of one recipe compute the same?", description=__doc__,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=verify)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run directories, the first to compare with"
    )
    parser.add_argument(
        "--within",
        type=command.positive_or_zero,
        default=1e-3,
        help="how far weights may be apart (default: %(default)g)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/verify"),
        help="the folder for the report (default: %(default)s)",
    )
    parser.add_argument("--title", default="One recipe, several runs", help="the heading of the report")


def verify(options: argparse.Namespace) -> int:
    """Write the report into --out, print it, return the exit code. Raises RecipeError for runs that cannot be
    compared.
    """
    compared = comparisons([Run(path) for path in options.runs])
    text = report(compared, options.out, options.within, title=options.title, command=options.typed)
    print(command.escaped(text))
    return int(not all(each.agrees(options.within) for each in compared[1:]))


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """Every run with the first, the first included. Raises RecipeError for fewer than two runs, another
    recipe or seed, a new leg, lost final weights, another model, and runs that did not come to the same step
    or logged no step in common.
    """
    first, *others = runs
    if not others or len({run.path.resolve() for run in runs}) < len(runs):
        raise RecipeError("name two or more different runs: the first is what the others are compared with")
    metric, names = primary_metric_of(first.recipe), names_of([run.path for run in runs])
    compared = [Comparison(name, run, first, metric) for name, run in zip(names, runs, strict=True)]
    for run in runs:
        if changed := changed_keys(first.recipe, run.recipe):
            raise RecipeError(
                f"{run.path} is a run of another recipe than {first.path} ({'; '.join(changed)})"
            )
        if legs := reasons(recorded(run.path)):
            raise RecipeError(f"{run.path} is no run of its recipe alone: {'; '.join(legs)}")
        if not run.summary:
            raise RecipeError(f"{run.path} has not ended: the same command resumes it")
        if (step := run.checkpoint.progress.step) != run.summary.get("step", step):
            raise RecipeError(
                f"{run.path} ended at step {run.summary['step']}, and its newest good checkpoint is of step "
                f"{step}: the final weights are lost"
            )
    steps = {run.path: run.checkpoint.progress.step for run in runs}
    if len(set(steps.values())) > 1:
        ended = ", ".join(f"{path} at step {step}" for path, step in steps.items())
        raise RecipeError(f"the runs ended at different steps ({ended}): compare runs of one length")
    for run in others:
        _check_alike(run, first)
    for each in compared:
        if not len(each.loss_differences[0]):
            raise RecipeError(
                f"{each.run.path} logged no average of the same steps as {first.path}: use one log_every"
            )
    return compared


def _check_alike(run: Run, first: Run) -> None:
    """Raises RecipeError unless both checkpoints hold the same names and shapes."""
    for here, there in ((run.weights, first.weights), (run.average, first.average)):
        for name in (*there, *here):
            ours, theirs = (
                f"of shape {tuple(state[name].shape)}" if name in state else "missing"
                for state in (here, there)
            )
            if ours != theirs:
                raise RecipeError(
                    f"{run.checkpoint.path} holds another model than {first.checkpoint.path}: {name} is "
                    f"{ours}, and was {theirs}"
                )


def report(compared: Sequence[Comparison], out: Path, within: float, *, title: str, command: str) -> str:
    """Writes runs.md, .json, .png and .html into `out`; returns the text for the terminal."""
    data = {
        "title": title,
        "command": command,
        "overrides": [],
        "rows": [each.row() for each in compared],
        "outcomes": [_outcome(each, compared[0].name, within) for each in compared[1:]],
        "provenance": provenance_of({origin_of(each.run.summary) for each in compared}, command),
    }
    return write_result(out, "runs", title, data, charts_of(compared), [table_of(compared)])


def _outcome(each: Comparison, first: str, within: float) -> str:
    names = f"{each.name} and {first}"
    averaged = bool(each.first.average)
    if not any(each.distances):
        compared = "weights, their average and statistics" if averaged else "weights and statistics"
        return f"{names}: {compared} are equal to the last bit"
    verdict = "agree" if each.agrees(within) else "do NOT agree"
    apart = (
        f"the weights are {each.weights_distance:.1e} apart, the statistics {each.statistics_distance:.1e}"
        + f", the averages of the weights {each.average_distance:.1e}" * averaged
    )
    return f"{names} {verdict}: {apart}; at most {within:g} is asked for"


def table_of(compared: Sequence[Comparison]) -> Table:
    apart = ["loss, largest difference", "weights, distance", "statistics, distance"]
    if compared[0].first.average:
        apart.append("average of the weights, distance")
    head = ["run", "engine", "ranks", "steps", f"{compared[0].metric.label} %", *apart]
    rows = []
    for each in compared:
        numbers = [each.loss_differences[1].max(), *each.distances][: len(apart)]
        cells = ["-" if each is compared[0] else f"{number:.1e}" for number in numbers]
        row = each.row()
        rows.append(
            [
                each.name,
                row["engine"],
                f"{row['ranks']}",
                f"{row['steps']:,}",
                "-" if each.score is None else f"{each.score:.2f}",
                *cells,
            ]
        )
    return Table(head, rows, align="ll" + "r" * (len(head) - 2))


def charts_of(compared: Sequence[Comparison]) -> list[Chart]:
    """Training loss, evaluations, and the difference of the loss by epoch."""
    names = ", ".join(each.name for each in compared)
    metric = compared[0].metric
    losses = partial(_draw_curves, compared=compared, kind="train", value="loss", label="training loss")
    scores = partial(
        _draw_curves, compared=compared, kind="eval", value=metric.name, label=f"{metric.label} (%)"
    )
    return [
        Chart("Training loss", f"Training loss by epoch of {names}.", losses),
        Chart(f"Validation: {metric.label}", f"{metric.label} by epoch of {names}.", scores),
        Chart(
            "Difference of the training loss",
            f"Relative difference of the training loss from {compared[0].name}, by epoch.",
            partial(_draw_differences, compared=compared),
        ),
    ]


def _line(number: int, total: int) -> dict[str, Any]:
    """Curves that lie on each other: the first is the widest, and each later one is thinner and on top."""
    return {
        **look(number),
        "linewidth": 1.2 + 4.4 * (total - 1 - number) / total,
        "alpha": 0.4 + 0.6 * (number + 1) / total,
    }


def _draw_curves(axes: Axes, compared: Sequence[Comparison], kind: str, value: str, label: str) -> None:
    for number, each in enumerate(compared):
        rows = each.run.rows(kind)
        curve = [row["epoch"] for row in rows], [row[value] for row in rows]
        axes.plot(*curve, **_line(number, len(compared)), label=each.name)
    axes.set(xlabel="epoch", ylabel=label)
    tidy(axes, legend=kind == "train")


def _draw_differences(axes: Axes, compared: Sequence[Comparison]) -> None:
    for number, each in enumerate(compared[1:], 1):
        epochs, apart = each.loss_differences
        axes.plot(epochs, np.maximum(apart, EQUAL), **look(number), marker=".", linewidth=1)
    axes.set(
        xlabel="epoch",
        ylabel=f"|loss - loss of the first| / loss of the first\n(equal ones at {EQUAL:g})",
        yscale="log",
    )
    axes.set_ylim(bottom=EQUAL / 2)
    tidy(axes, legend=False)
