"""The rows of a table in CSV, which users write by hand or save from a spreadsheet."""

import contextlib
import csv
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from .row import Row, check_fields, row_of


def table_rows(text: str, gpus_per_node: int) -> Iterator[Row]:
    """The rows of a table whose first line names columns of a row. Raises ValueError, which names line and
    column, for what cannot be.
    """
    lines = csv.reader(text.splitlines())
    columns = _columns(next(lines, []))
    for cells in filter(any, lines):
        if any(cells[len(columns) :]):
            raise ValueError(f"line {lines.line_num} has more cells than the first line has names")
        pairs = zip(columns, cells, strict=False)
        named = {name: _read(name, cell.strip()) for name, cell in pairs if name and cell.strip()}
        try:
            yield _row(named, gpus_per_node)
        except ValueError as error:
            raise ValueError(f"line {lines.line_num}: {error}") from None


def _row(named: Mapping[str, Any], gpus_per_node: int) -> Row:
    """With what follows from the cells of a line that are filled."""
    if "gpus" not in named:
        raise ValueError("gpus is missing: it must be a whole number above 0")
    check_fields(Row, named)
    gpus, rate, images = named["gpus"], named.get("images_per_s"), named.get("per_gpu_batch")
    usual = {
        "nodes": -(-gpus // gpus_per_node),
        "global_batch": images * gpus * (named.get("accumulation") or 1) if images else None,
        "data": "log",
        "images_per_s_gpu": rate and rate / gpus,
    }
    row = row_of({**usual, **named})
    if rate and row.images_per_s_gpu and abs(row.images_per_s_gpu * gpus / rate - 1) > _ROUNDING:
        raise ValueError(
            f"images_per_s_gpu={row.images_per_s_gpu} must be {rate / gpus:g}: images_per_s={rate} is of all "
            f"{gpus} GPUs together"
        )
    return row


_ROUNDING = 0.02
"""How far images/s of a GPU and of all may be apart, since both are rounded."""


def _columns(header: Sequence[str]) -> list[str]:
    """The names of a table's columns, as a row has them; that of an unnamed one, which is not read, is empty.
    Raises ValueError for a name that no row has, and for one that stands twice.
    """
    names = [re.sub("^images_per_sec(ond)?(?=$|_)", "images_per_s", name.strip()) for name in header]
    known = [each.name for each in dataclasses.fields(Row)]
    if unknown := [name for name in names if name and name not in known]:
        raise ValueError(f"no column is called {', '.join(unknown)}; there are {', '.join(known)}")
    if twice := [name for name in known if names.count(name) > 1]:
        raise ValueError(f"several columns are called {', '.join(twice)}: keep one of them")
    return names


_TEXTS = [each.name for each in dataclasses.fields(Row) if str in (each.type, *get_args(each.type))]


def _read(name: str, cell: str) -> Any:
    if name in _TEXTS:
        return cell  # a host may be called 12
    with contextlib.suppress(ValueError):
        value = float(cell)
        return int(value) if value.is_integer() else value  # pandas writes counts as 8.0 beside gaps
    return cell
