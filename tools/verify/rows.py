"""Tables of verify as CSV files with a dataclass per line, read again when a table is continued."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from lbtrain.errors import RecipeError
from lbtrain.runs.files import as_csv, write_whole
from lbtrain.runs.provenance import commit, hardware, versions

R = TypeVar("R")


def provenance() -> dict[str, Any]:
    """The columns that say where a row comes from."""
    found = " ".join(f"{key}={value}" for key, value in versions().items())
    return {"commit": commit(), "hardware": hardware(), "versions": found}


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """Of a table whose fields are texts and whole numbers; none where there is no such file yet. Raises
    RecipeError for a table of another kind.
    """
    kinds: dict[str, Any] = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    lines = (
        csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        if path.is_file()
        else csv.DictReader([])
    )
    if lines.fieldnames and set(lines.fieldnames) != set(kinds):
        raise RecipeError(
            f"{path} is another table: its columns are {','.join(lines.fieldnames)[:80]}, and not "
            f"{','.join(kinds)[:80]}; name another file"
        )
    try:
        return [kind(**{name: kinds[name](text) for name, text in line.items()}) for line in lines]
    except (KeyError, TypeError, ValueError) as error:  # a line that is too long or too short, or no number
        raise RecipeError(f"{path}, line {lines.line_num} cannot be read ({error}): remove it") from error


def write_rows(path: Path, rows: Iterable[Any], kind: type) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, as_csv([asdict(row) for row in rows], [field.name for field in fields(kind)]))
