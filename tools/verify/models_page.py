"""The page of models, made from the table of a sweep."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..kit.tables import Table

if TYPE_CHECKING:
    from .sweep import Row

_HEAD = """# Models

This page is made by `lbtrain verify sweep --out results/models.csv --page docs/models.md`; do not
edit it. Every family of timm is built on the meta device and its layers are checked. Its smallest model then
trains three steps in float64, with 8 random images a step and batch norm over 4: in one piece, and as two
micro-batches. `holds` means that weights and running statistics agree to 1e-8; the number is the largest
relative difference. For your own model, and for two ranks, run `lbtrain verify model timm:NAME`.

What is rejected when the plan is made, with the argument that helps:

- layers with batch statistics that have no ghost form: SyncBatchNorm, SplitBatchNorm, InplaceABN, EvoNorm B0
  to B2, InstanceNorm with running statistics, and any layer of an unknown kind with running statistics;
- models that do not take the images of the data set, or do not return scores (n, classes).

A parameter that the loss does not depend on is not trained, under any engine; the plan names it. Dropout and
drop path are switched off in this test; `random layers` counts those with dropout, at timm's default rates.
`not trained yet`: the layers are checked; the three steps took more time than the last sweep had, or more
memory than its machine.
"""
_COLUMNS = ("family", "models", "smallest", "parameters", "pixels", "batch norms", "random layers", "outcome")


def page_of(rows: Sequence["Row"]) -> str:
    """Markdown."""
    outcomes = Counter(row.outcome for row in rows).most_common()
    counted = ", ".join(f"{count} {outcome}" for outcome, count in outcomes)
    summary = (
        f"{len(rows)} families with {sum(row.models for row in rows):,} models, "
        f"{sum(row.models_rejected for row in rows)} of which have a layer that is rejected or cannot be "
        f"built here. Smallest models: {counted}."
    )
    table = Table(_COLUMNS, [_cells(row) for row in rows], align="lrlrrrrl")
    sources = sorted({f"Commit {row.commit}, {row.hardware}, {row.versions}." for row in rows})
    return "\n\n".join([_HEAD.rstrip(), summary, table.markdown(), *sources]) + "\n"


def _cells(row: "Row") -> list[str]:
    trained = row.image_size > 0
    return [
        row.family,
        str(row.models),
        row.model,
        f"{row.parameters:,}",
        str(row.image_size) if trained else "",
        str(row.batch_norm_layers) if trained else "",
        str(row.random_layers) if trained else "",
        row.outcome
        + (f", {row.difference}" if row.difference else "")
        + (f": {row.reason}" if row.reason else ""),
    ]
