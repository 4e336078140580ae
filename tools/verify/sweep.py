"""Try one small model of every family of timm: can lbtrain plan it, and does the guarantee hold?

First every model of every family is built on the meta device and its layers are checked. Then the one with
the fewest parameters of each family trains three steps in float64, in one piece and again in micro-batches,
as in `lbtrain verify model`, in this process; small ones first. Rows that the file has already are kept: the
same command continues after a stop.
"""

import argparse
import difflib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lbtrain.errors import Preempted, RecipeError
from lbtrain.plan.statistics import ModelStatistics

from ..kit.command import positive
from .model import difference_of_states
from .rows import provenance, read_rows, write_rows
from .traces import Question, Trace, trained

SIZES = (64, 96, 128, 160, 192, 224, 256)
"""Pixels a side, tried in this order."""
EXAMPLES = """
examples:
  nice -n 15 lbtrain verify sweep --out results/models.csv --page docs/models.md
  lbtrain verify sweep --families resnet,vgg --out runs/models.csv

exit status: 0 the guarantee holds for every model that can be trained; 1 it does not for one; 75 some are not
trained yet, for want of time or memory
"""


NOT_TRAINED = "not trained yet"


@dataclass(frozen=True)
class Row:
    """One family. Outcomes: holds, does not hold, rejected (by the plan, with the reason), NOT_TRAINED."""

    family: str = ""
    models: int = 0
    models_rejected: int = 0
    model: str = ""
    parameters: int = 0
    image_size: int = 0
    args: str = "{}"
    batch_norm_layers: int = 0
    random_layers: int = 0
    outcome: str = NOT_TRAINED
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
    parser.set_defaults(run=sweep)
    parser.add_argument("--out", type=Path, required=True, help="the table, a CSV file")
    parser.add_argument("--page", type=Path, help="a page made from the table, Markdown")
    parser.add_argument("--families", default="", help="some of timm.list_modules(), by commas; empty: all")
    text = "stop after so long (default: %(default)s)"
    parser.add_argument("--minutes", type=positive, default=60, help=text)


def sweep(options: argparse.Namespace) -> int:
    """Fill the table, write the page, return the exit code. Raises RecipeError for an unknown family."""
    import timm

    warnings.simplefilter("ignore")  # timm's and torch's own
    torch.set_num_threads(1)
    families = _families(options.families) if options.families else timm.list_modules()
    rows = {row.family: row for row in read_rows(options.out, Row)}
    if options.page:
        options.page.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    def in_order() -> list[Row]:
        return [rows[family] for family in sorted(rows)]

    def fill(todo: Iterable[str], fill_row: Callable[[str], Row]) -> None:
        for family in todo:
            if time.monotonic() < end:
                rows[family] = fill_row(family)
                print(f"{family}: {rows[family].model} {rows[family].outcome}", flush=True)
                write_rows(options.out, in_order(), Row)

    fill([family for family in families if family not in rows], _built)
    waiting = [name for name in families if name in rows and rows[name].outcome == NOT_TRAINED]
    fill(sorted(waiting, key=lambda family: rows[family].parameters), lambda family: _tried(rows[family]))
    if options.page:
        from .models_page import page_of

        options.page.write_text(page_of(in_order()), encoding="utf-8")
    left = sum(family not in rows or rows[family].outcome == NOT_TRAINED for family in families)
    if left:
        print(f"{left} of {len(families)} families are {NOT_TRAINED}: the same command goes on with them")
    if any(row.outcome == "does not hold" for row in rows.values()):
        return 1
    return Preempted.exit_code if left else 0


def _families(text: str) -> list[str]:
    import timm

    families, known = text.split(","), timm.list_modules()
    for family in families:
        if family not in known:
            near = difflib.get_close_matches(family, known, n=1)
            meant = f"did you mean {near[0]}?" if near else "timm.list_modules() has all names"
            raise RecipeError(f"--families {family}: timm has no such family: {meant}")
    return families


def _built(family: str) -> Row:
    """Its models built, its smallest one chosen."""
    sizes = dict(_model_sizes(family))
    candidates = {name: size for name, size in sizes.items() if size >= 0} or sizes
    name = min(candidates, key=lambda name: abs(candidates[name]))
    rejected = sum(size < 0 for size in sizes.values())
    return Row(family, len(sizes), rejected, name, abs(sizes[name]), **provenance())


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
    started = time.monotonic()
    return replace(_outcome(row), seconds=round(time.monotonic() - started), **provenance())


def _outcome(row: Row) -> Row:
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
        outcome = NOT_TRAINED if _is_shortage(error) else "does not hold"
        return replace(row, outcome=outcome, reason=f"{type(error).__name__}: {error}".split("\n")[0])
    difference = difference_of_states(other, reference)
    holds = difference <= question.tolerance
    reason = "" if holds else _first_difference(other, reference, question.tolerance)
    return replace(
        row, outcome="holds" if holds else "does not hold", reason=reason, difference=f"{difference:.1e}"
    )


def _is_shortage(error: Exception) -> bool:
    """Whether the machine has too little memory, which says nothing about the model."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


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
