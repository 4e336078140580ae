"""`training RUN_DIR`: the largest Hessian eigenvalues and the trace at every checkpoint of a run (Yao et al.
2018, section 3 and Figure 1: the spectrum over training).
"""

import json
import math
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

from matplotlib.axes import Axes

from lbtrain.runs.files import write_whole

from ..kit.charts import BLUE, ORANGE, Chart, save, tidy
from ..kit.tables import Table
from .loss import LossOptions, TrainingLoss
from .measures import Measures, epoch_of
from .runs import DistContext, Run


def training(run: Run, context: DistContext, options: LossOptions) -> str:
    """Writes landscape/training.json and .png; returns the table for the terminal of rank 0. Collective.

    Raises RecipeError for a run that kept fewer than two checkpoints.
    """
    checkpoints, loss = run.at_checkpoints(), TrainingLoss(run, context, options)
    points = [
        {"epoch": epoch_of(at, context), **Measures(at, loss).eigenvalues_and_trace()} for at in checkpoints
    ]
    if context.rank:
        return ""
    write_whole(run.folder / "training.json", json.dumps(points, indent=1) + "\n")
    rows = [
        [f"{each['epoch']:.4g}", f"{each['eigenvalues']['values'][0]:.4g}", f"{each['trace']['value']:.4g}"]
        for each in points
    ]
    table = Table(["epoch", "largest eigenvalue", "trace"], rows, align="rrr")
    picture = save([_chart(points, run.path.name)], run.folder / "training.png")
    return f"{table.markdown()}\n\n{picture}"


def _chart(points: Sequence[dict[str, Any]], name: str) -> Chart:
    alt = f"The largest eigenvalues of the Hessian and its trace over the epochs of {name}."
    return Chart("Hessian over training", alt, partial(_draw, points=points), width=7, height=4.6)


def _draw(axes: Axes, points: Sequence[dict[str, Any]]) -> None:
    epochs = [point["epoch"] for point in points]
    largest = (point["eigenvalues"]["values"] for point in points)
    for place, values in enumerate(zip_longest(*largest, fillvalue=math.nan)):  # fewer where the space ends
        label = "largest eigenvalue" if place == 0 else None
        axes.plot(epochs, values, "o-", color=BLUE, markersize=4, alpha=1 if place == 0 else 0.3, label=label)
    axes.plot(epochs, [point["trace"]["value"] for point in points], "s--", color=ORANGE, label="trace")
    axes.set(xlabel="epoch", ylabel="eigenvalue, trace", yscale="symlog")
    tidy(axes)
