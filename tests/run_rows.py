"""metrics.jsonl of a run that no one trained: rows with every value that such a row has."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lbtrain.runs import rows

KINDS = {
    row.kind: row
    for row in (
        *(rows.TrainRow, rows.EvalRow, rows.TrustRow, rows.CurvatureRow),
        *(rows.NoiseRow, rows.LayersRow, rows.DistanceRow),
    )
}


def write_rows(folder: Path, rows: Iterable[Mapping[str, Any]], mode: str = "w") -> None:
    """Numbers that a test does not look at are 0."""
    lines = [json.dumps(_numbers(KINDS[row["kind"]]) | dict(row)) + "\n" for row in rows]
    with (folder / "metrics.jsonl").open(mode) as file:
        file.writelines(lines)


def _numbers(kind: type[Any]) -> dict[str, int]:
    needed = [each for each in dataclasses.fields(kind) if each.default is dataclasses.MISSING]
    return {each.name: 0 for each in needed if each.type in (int, float, float | None)}
