"""Try one small model of every family of timm: can lbtrain plan it, and does the guarantee hold?

Every model of a family is built on the meta device and its layers are checked. The one with the fewest
parameters then trains three steps in float64, in one piece and again in micro-batches, as in `tools.verify
model`, in this process. Rows that the file has already are kept: the same command continues after a stop.
"""

import argparse
import csv
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lbtrain.errors import RecipeError
from lbtrain.plan.statistics import ModelStatistics
from lbtrain.runs.provenance import commit, hardware, versions

from .model import difference_of_states
from .traces import Question, Trace, trained

SIZES = (64, 96, 128, 160, 192, 224, 256)
"""Pixels a side, tried in this order."""
EXAMPLES = """
examples:
  nice -n 15 python -m tools.verify sweep --out results/models.csv --page docs/models.md
  python -m tools.verify sweep --families resnet,vgg --out runs/models.csv

exit status: 0 the guarantee holds for every model that can be trained; 1 it does not for one
"""


@dataclass(frozen=True)
class Row:
    """One family. Outcomes: holds, does not hold, rejected (by the plan, with the reason)."""

    family: str
    models: int
    models_rejected: int
    model: str
    parameters: int
    image_size: int = 0
    args: str = "{}"
    batch_norm_layers: int = 0
    random_layers: int = 0
    outcome: str = ""
    reason: str = ""
    difference: str = ""
    seconds: int = 0
    commit: str = ""
    hardware: str = ""
    versions: str = ""


def add_arguments(commands: Any) -> None:
    """Add the command `sweep` to a parser."""
    parser = commands.add_parser(
        "sweep", help="try a small model of every family of timm", description=__doc__,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="the table, a CSV file")
    parser.add_argument("--page", type=Path, help="a page made from the table, Markdown")
    parser.add_argument("--families", default="", help="some of timm.list_modules(), by commas; empty: all")
    parser.add_argument("--minutes", type=float, default=60, help="stop after so long (default: %(default)s)")


def sweep(options: argparse.Namespace) -> int:
    """Fill the table, write the page, return the exit code."""
    import timm

    warnings.simplefilter("ignore")  # timm's and torch's own
    torch.set_num_threads(1)
    families = options.families.split(",") if options.families else timm.list_modules()
    rows = {row["family"]: row for row in _written(options.out)}
    end = time.monotonic() + 60 * options.minutes
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    for family in families:
        if family not in rows and time.monotonic() < end:
            rows[family] = asdict(_row(family))
            print(f"{family}: {rows[family]['model']} {rows[family]['outcome']}", flush=True)
            _write(options.out, rows)
    if options.page:
        from .models_page import page_of

        options.page.write_text(page_of(list(rows.values())))
    return int(any(row["outcome"] == "does not hold" for row in rows.values()))


def _written(path: Path) -> list[dict[str, Any]]:
    return list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []


def _write(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[family] for family in sorted(rows))


def _row(family: str) -> Row:
    started, sizes = time.monotonic(), dict(_model_sizes(family))
    rejected = [name for name, size in sizes.items() if size < 0]
    candidates = {name: size for name, size in sizes.items() if size >= 0} or sizes
    name = min(candidates, key=lambda name: abs(candidates[name]))
    row = Row(
        family=family,
        models=len(sizes),
        models_rejected=len(rejected),
        model=name,
        parameters=abs(sizes[name]),
        commit=commit(),
        hardware=hardware(),
        versions=" ".join(f"{key}={value}" for key, value in versions().items()),
    )
    row = _tried(row)
    return replace(row, seconds=round(time.monotonic() - started))


def _model_sizes(family: str) -> Iterator[tuple[str, int]]:
    """Names and parameters of its models; negative where a layer is rejected."""
    import timm

    from lbtrain.nn import check_batch_statistics

    for name in timm.list_models(module=family):
        try:
            with torch.device("meta"):
                model = timm.create_model(name)
        except Exception:  # an optional package that is not here, say; the plan of the smallest says more
            yield name, -1
            continue
        parameters = sum(parameter.numel() for parameter in model.parameters())
        try:
            check_batch_statistics(model)
        except ValueError:
            parameters = -parameters
        yield name, parameters


def _tried(row: Row) -> Row:
    """`row` with what comes of planning and training its model."""
    try:
        question, statistics = _fitting(row.model)
    except RecipeError as error:
        return replace(row, outcome="rejected", reason=str(error))
    row = replace(
        row,
        image_size=question.image_size,
        args=question.args,
        batch_norm_layers=statistics.batch_norm_layers,
        random_layers=statistics.random_layers,
    )
    try:
        reference, other = (trained(question, split) for split in question.splits())
    except Exception as error:  # whatever a model raises is a row of the table
        return replace(row, outcome="does not hold", reason=f"{type(error).__name__}: {error}".split("\n")[0])
    difference = difference_of_states(other, reference)
    holds = difference <= question.tolerance
    reason = "" if holds else _first_difference(other, reference, question.tolerance)
    return replace(
        row, outcome="holds" if holds else "does not hold", reason=reason, difference=f"{difference:.1e}"
    )


def _first_difference(trace: Trace, reference: Trace, tolerance: float) -> str:
    for name, expected in reference.outputs.items():
        if name in trace.outputs and not torch.allclose(trace.outputs[name], expected, tolerance, tolerance):
            return f"the outputs of {name} differ first"
    return "weights differ, outputs of the first step do not"


def _fitting(name: str) -> tuple[Question, ModelStatistics]:
    """A question whose images the model takes, and the model in numbers. Raises RecipeError for a model that
    takes none.
    """
    from lbtrain.plan.plan import make_plan

    reasons = []
    for size in SIZES:
        for args in ("{}", f"{{img_size: {size}}}"):
            question = Question(f"timm:{name}", args, 1, 3, 8, 4, size, "sgd", 0.01, tolerance=1e-8, rows=0)
            try:
                plan = make_plan(question.recipe(), 1)
            except RecipeError as error:
                reasons.append(str(error))
                continue
            return question, plan.statistics
    raise RecipeError(reasons[0])
