"""Which optimizers are right under which sharding: `lbtrain verify optim` for each, as a table with its data.

The models are small: test_resnet of timm has convolutions; test_vit has matrices, for optimizers that take no
convolutions. `right`: every layer agrees with unsharded training. Rows that the file has already are kept:
the same command continues after a stop.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lbtrain.errors import RecipeError

from ..kit.publish import with_block
from ..kit.tables import Table
from .optim import Answer, Question, compare_all
from .optimizers import OptimizerChoice
from .rows import provenance, read_rows, write_rows

EXAMPLES = """
examples:
  .venv-colossalai/bin/python -m lbtrain verify optimizers --out results/sharded_optimizers.csv \\
      --page docs/optimizers.md
  lbtrain verify optimizers --shardings zero1,fsdp2 --out runs/sharded_optimizers.csv

exit status: 0 lbtrain's own optimizers are right everywhere; 1 one is off
"""
CONVOLUTIONS = Question(OptimizerChoice("lars"), model="timm:test_resnet", batch_size=2)
MATRICES = replace(CONVOLUTIONS, model="timm:test_vit", image_size=160)
OPTIMIZERS = {
    CONVOLUTIONS: (
        *("lars", "lamb", "adamw", "muon", "timm:lars", "timm:lamb", "timm:muon", "timm:adafactor"),
        *("timm:lion", "torch:adamw", "torch:adafactor", "deepspeed:adam", "deepspeed:muon"),
    ),
    MATRICES: ("muon", "timm:muon", "torch:muon", "deepspeed:muon"),
}
SHARDINGS = {
    "fsdp2": ("fsdp2", 0),
    "colossalai": ("colossalai", 1),
    **{f"zero{stage}": ("deepspeed", stage) for stage in (1, 2, 3)},
}
MARKERS = "sharded_optimizers"


@dataclass(frozen=True)
class Row:
    """One optimizer under one sharding. Outcomes: right, off, fails (with the reason)."""

    optimizer: str
    model: str
    sharding: str
    outcome: str
    layers: int = 0
    layers_off: int = 0
    ratio_min: str = ""
    ratio_max: str = ""
    cosine_min: str = ""
    reason: str = ""
    commit: str = ""
    hardware: str = ""
    versions: str = ""


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `optimizers` to a parser."""
    parser = commands.add_parser(
        "optimizers", help="which optimizers are right under which sharding", description=__doc__,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=tabulate)
    parser.add_argument("--out", type=Path, required=True, help="the table, a CSV file")
    parser.add_argument("--page", type=Path, help=f"a page with the markers {MARKERS} for the table")
    parser.add_argument(
        "--shardings", default=",".join(SHARDINGS), help="some of them, by commas (default: %(default)s)"
    )


def tabulate(options: argparse.Namespace) -> int:
    """Measure, write the table and the page, return the exit code."""
    wanted = options.shardings.split(",")
    if unknown := set(wanted) - set(SHARDINGS):
        raise RecipeError(f"--shardings {', '.join(sorted(unknown))}: known are {', '.join(SHARDINGS)}")
    rows = read_rows(options.out, Row)
    if options.page:
        with_block(
            options.page.read_text(encoding="utf-8"), MARKERS, ""
        )  # or all would be measured for a page without them
    for name in wanted:
        known = {(row.optimizer, row.model, row.sharding) for row in rows}
        asked = [
            each
            for each in questions(*SHARDINGS[name])
            if (each.choice.text, each.model, each.sharded) not in known
        ]
        if asked:
            rows += map(row_of, asked, compare_all(asked))
            write_rows(options.out, rows, Row)
            print(f"{rows[-1].sharding}: {len(asked)} optimizers", flush=True)
    if options.page:
        options.page.write_text(
            with_block(options.page.read_text(encoding="utf-8"), MARKERS, block(rows)), encoding="utf-8"
        )
    return int(any(":" not in row.optimizer and row.outcome != "right" for row in rows))


def questions(engine: str, stage: int) -> Iterable[Question]:
    """One for each optimizer that exists under this engine."""
    for question, names in OPTIMIZERS.items():
        for name in names:
            if engine == "deepspeed" or not name.startswith("deepspeed:"):
                yield replace(question, choice=OptimizerChoice(name), engine=engine, stage=stage)


def row_of(question: Question, answer: Answer) -> Row:
    row = Row(question.choice.text, question.model, question.sharded, "fails", **provenance())
    if isinstance(answer, str):
        return replace(row, reason=answer)
    off = sum(layer.off(question.tolerance) for layer in answer)
    return replace(
        row,
        outcome="off" if off else "right",
        layers=len(answer),
        layers_off=off,
        ratio_min=f"{min(layer.ratio for layer in answer):.6g}",
        ratio_max=f"{max(layer.ratio for layer in answer):.6g}",
        cosine_min=f"{min(layer.cosine for layer in answer):.6f}",
    )


def block(rows: Sequence[Row]) -> str:
    """The page's text: the table, the reasons of what fails, the origin."""
    shardings = list(dict.fromkeys(row.sharding for row in rows))
    cells = {(row.optimizer, row.model, row.sharding): _cell(row) for row in rows}
    lines = [
        [f"`{optimizer}`", model.removeprefix("timm:")]
        + [cells.get((optimizer, model, sharding), "-") for sharding in shardings]
        for optimizer, model in dict.fromkeys((row.optimizer, row.model) for row in rows)
    ]
    table = Table(["optimizer", "model", *shardings], lines, align="l" * (2 + len(shardings)))
    reasons = sorted(
        {f"- `{row.optimizer}` under {row.sharding}: {row.reason}" for row in rows if row.reason}
    )
    origins = dict.fromkeys(f"Commit {row.commit}, {row.hardware}, {row.versions}." for row in rows)
    origin = f"<sub>{' '.join(origins)}</sub>"
    return "\n\n".join(filter(None, [table.markdown(), "\n".join(reasons), origin]))


def _cell(row: Row) -> str:
    if row.outcome != "off":
        return row.outcome
    size = f"steps x {float(row.ratio_min):.2g} to {float(row.ratio_max):.2g}"
    return f"off: {row.layers_off} of {row.layers} layers, {size}, cosine from {float(row.cosine_min):.2f}"
