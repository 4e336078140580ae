"""Rows of results/: one measured comparison each, with everything needed to repeat it."""

import csv
import dataclasses
import datetime
import math
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbtrain.runs.provenance import commit, hardware, versions

RESULTS = Path(os.environ.get("LBTRAIN_RESULTS") or Path(__file__).parents[1] / "results")
"""Where rows go: results/, or the folder that LBTRAIN_RESULTS names, for a measurement that is only to be
looked at; an empty variable names none.
"""


@dataclass(frozen=True)
class Row:
    """`ours` and `peer` are medians over `n` paired rounds in `unit`; `ratio` is the median of the paired
    ratios, with its 95 % interval (`median_interval`). A figure that has no peer (`single`) has none of these
    either.

    `target` is the bound on the ratio that was aimed at, as written (">=0.97"); empty where there is none.
    """

    bench: str
    case: str
    peer_name: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    target: str
    n: int
    command: str

    @property
    def met(self) -> str:
        if not self.target or self.ratio is None:
            return ""
        limit = bound(self.target)
        return (
            "yes" if (self.ratio >= limit if self.target.startswith(">") else self.ratio <= limit) else "no"
        )


def bound(target: str) -> float:
    """The number of an aim such as ">=0.97"."""
    return float(target.lstrip("<>="))


def published() -> bool:
    """Whether rows go into the repository, whose pages and pictures are made from them."""
    return RESULTS.resolve() == Path(__file__).resolve().parents[1] / "results"


def paired(
    bench: str,
    case: str,
    peer_name: str,
    ours: list[float],
    peer: list[float],
    *,
    unit: str,
    target: str,
    command: str,
) -> Row:
    """The row of a comparison measured in turns: ours[i] and peer[i] belong to one round."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return Row(
        bench,
        case,
        peer_name,
        statistics.median(ours),
        statistics.median(peer),
        unit,
        statistics.median(ratios),
        *median_interval(ratios),
        target,
        len(ratios),
        command,
    )


def median_interval(values: list[float]) -> tuple[float, float]:
    """Two of the `values` between which the median of what they are drawn from lies in 95 of 100 cases at
    least, whatever its distribution.

    The number of values below the true median is binomial (n, 1/2); the interval leaves out as many at either
    end as its 2.5 % quantile allows. Fewer than six values cannot say that much: the smallest and the largest
    of them.
    """
    count, ordered = len(values), sorted(values)
    below, left_out = 0.5**count, 0
    while below <= 0.025:
        left_out += 1
        below += math.comb(count, left_out) * 0.5**count
    split = max(left_out - 1, 0)
    return ordered[split], ordered[count - 1 - split]


def single(bench: str, case: str, values: list[float], *, unit: str, command: str) -> Row:
    """The row of a figure that is compared with nothing: the median of `values`."""
    return Row(
        bench, case, "", statistics.median(values), None, unit, None, None, None, "", len(values), command
    )


def write(rows: list[Row], name: str) -> Path:
    """Appends to results/NAME.csv and prints them."""
    values = [
        {
            key: f"{value:.6g}" if isinstance(value, float) else value
            for key, value in dataclasses.asdict(row).items()
        }
        | {"met": row.met}
        for row in rows
    ]
    path = append(values, name)
    for row in rows:
        print(show(row), flush=True)
    return path


def append(rows: list[dict[str, Any]], name: str) -> Path:
    """Appends rows of other columns to results/NAME.csv, with commit, date, hardware and versions in every
    one.

    Raises ValueError, and writes nothing, if the rows have other columns than the file or each other.
    """
    return _write(rows, name, header=_header(RESULTS / f"{name}.csv"))


def _header(path: Path) -> list[str]:
    """The columns of a file; none where there is no file, or an empty one."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file).fieldnames or ())


def _write(rows: list[dict[str, Any]], name: str, header: list[str]) -> Path:
    """Under the columns of `header`, or as a new file where there are none."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.csv"
    origin = {
        "commit": commit(),
        "date": str(datetime.date.today()),
        "hardware": hardware(),
        "versions": " ".join(f"{package}={version}" for package, version in versions().items()),
    }
    lines = [values | origin for values in rows]
    columns = header or (list(lines[0]) if lines else [])
    if different := next((line for line in lines if set(line) != set(columns)), None):
        raise ValueError(
            f"{path}: rows with the columns {', '.join(different)} do not belong under its columns "
            f"{', '.join(columns)}: move the file away, or name another folder in LBTRAIN_RESULTS"
        )
    with path.open("a" if header else "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if not header:
            writer.writeheader()
        writer.writerows(lines)
    return path


def replace(rows: list[dict[str, Any]], name: str) -> Path:
    """Writes results/NAME.csv anew: for rows that belong together and follow from each other, of which older
    ones say nothing more.
    """
    return _write(rows, name, header=[])


def read(name: str) -> list[dict[str, str]]:
    """The rows of results/NAME.csv; none where it was not measured."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def show(row: Row) -> str:
    if row.peer is None:
        return f"{row.bench} {row.case}: {row.ours:.4g} {row.unit} (n={row.n})"
    target = f"  target {row.target}: {'met' if row.met == 'yes' else 'not met'}" if row.target else ""
    return (
        f"{row.bench} {row.case}: ours {row.ours:.4g} {row.unit}, {row.peer_name} {row.peer:.4g}; "
        f"ratio {row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f}, n={row.n}){target}"
    )
