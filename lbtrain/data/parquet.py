"""Images in parquet files as Hugging Face publishes data sets: a column of encoded images, a column of class
numbers.

Parquet is read a row group at a time, whatever one asks for, so one random image costs a whole group
(ImageNet's have 100 images): fine on a local disk, poor over a network. docs/data.md says what to do then.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lbtrain.errors import RecipeError

_GROUPS_KEPT = 4


class ParquetRows:
    """Rows in the order of the files and of the rows in them. Files and groups are opened in the process that
    reads them.
    """

    def __init__(self, files: Sequence[Path]):
        self._files = [str(path) for path in files]
        self.classes: Sequence[str] | None = None
        self._groups: list[tuple[int, int]] = []
        sizes, labels = [], []
        for shard, path in enumerate(self._files):
            file = _open(path)
            self._image, label = _columns(path, file.schema_arrow)
            self.classes = _class_names(file.schema_arrow, label)
            labels.append(_labels(path, file, label))
            for number in range(file.num_row_groups):
                self._groups.append((shard, number))
                sizes.append(file.metadata.row_group(number).num_rows)
        self.labels = np.concatenate(labels)
        self._ends = np.cumsum(sizes)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open: dict[int, Any] = {}
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        group, row = self._place(index)
        value = self._column(group)[row].as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        if data is None:
            raise OSError("the row holds no image bytes")
        return bytes(data)

    def name(self, index: int) -> str:
        group, row = self._place(index)
        shard, number = self._groups[group]
        return f"{self._files[shard]}: row {row} of row group {number}"

    def _place(self, index: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._ends, index, side="right"))
        return group, index - (int(self._ends[group - 1]) if group else 0)

    def _column(self, group: int) -> Any:
        if self._process != os.getpid():  # forked: what the parent had open is the parent's
            self._forget()
        if group not in self._kept:
            shard, number = self._groups[group]
            if shard not in self._open:
                self._open[shard] = _open(self._files[shard])
            self._kept[group] = (
                self._open[shard].read_row_group(number, columns=[self._image], use_threads=False).column(0)
            )
            if len(self._kept) > _GROUPS_KEPT:
                self._kept.popitem(last=False)
        return self._kept[group]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": {}, "_kept": OrderedDict()}


def _open(path: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, memory_map=True)
    except (OSError, pyarrow.ArrowException) as error:
        raise RecipeError(f"{path}: not a whole parquet file ({error})") from error


def _columns(path: str, schema: Any) -> tuple[str, str]:
    """The names of the columns with the encoded images and with the class numbers."""
    import pyarrow.types as types

    def encoded(kind: Any) -> bool:
        return (
            types.is_binary(kind)
            or types.is_large_binary(kind)
            or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
        )

    images = [field.name for field in schema if encoded(field.type)]
    labels = [field.name for field in schema if types.is_integer(field.type)]
    preferred = [name for name in labels if name in ("label", "labels", "fine_label", "cls")] or labels
    if len(images) != 1 or len(preferred) != 1:
        raise RecipeError(
            f"{path}: columns {', '.join(f'{field.name} ({field.type})' for field in schema)}; one column "
            "of encoded images and one of "
            "class numbers called label are needed"
        )
    return images[0], preferred[0]


def _labels(path: str, file: Any, column: str) -> Any:
    values = file.read(columns=[column], use_threads=False).column(0)
    if values.null_count:
        raise RecipeError(f"{path}: {values.null_count} rows have no {column}")
    return values.to_numpy().astype(np.int64)


def _class_names(schema: Any, column: str) -> list[str] | None:
    """From the notes that Hugging Face's `datasets` leaves in the file."""
    try:
        notes = json.loads((schema.metadata or {})[b"huggingface"])
        return [str(name) for name in notes["info"]["features"][column]["names"]]
    except (KeyError, TypeError, ValueError):
        return None
