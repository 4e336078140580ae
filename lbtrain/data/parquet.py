"""Images in parquet files as Hugging Face publishes data sets: a column of encoded images, a column of class
numbers or names.

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
from numpy.typing import NDArray

from lbtrain.data.containers import renumbered
from lbtrain.data.index import Note, Notes, class_order, composed
from lbtrain.data.progress import Progress
from lbtrain.errors import DataError, RecipeError, naming_the_shortage

_GROUPS_KEPT, _FILES_KEPT = 4, 32
_LABELS = ("label", "labels", "fine_label", "cls", "class", "target")
"""Names of the column with the classes, the first that is there; ClassLabel is what `datasets` calls its
type.
"""
_IMAGES = ("image", "img", "images", "photo", "picture")
"""Names of the column with the images. Where it is not encoded, another one that is may hold thumbnails."""
_ENCODED = ("binary", "large_binary", "binary_view")
_NAMES = ("string", "large_string", "string_view")


class ParquetRows:
    """Rows in the order of the files and of the rows in them. Files and groups are opened in the process that
    reads them. Raises RecipeError for files without a column of images and a column of labels that is known
    by its name, or files that do not go together, DataError for damaged ones.
    """

    def __init__(self, files: Sequence[Path]):
        self._files = [str(path) for path in files]
        self._groups: list[tuple[int, int]] = []
        counts, sizes, labels = [], [], _Labels()
        progress = Progress(f"indexing {files[0].parent}", len(files))
        columns = ("", "")
        for shard, path in enumerate(self._files):
            file = _open(path)
            found = _columns(path, file.schema_arrow)
            if shard and found != columns:
                raise RecipeError(
                    f"{path}: images and labels in {' and '.join(found)}, in {self._files[0]} in "
                    f"{' and '.join(columns)}: are these files of one data set?"
                )
            columns = found
            for name in [] if shard else _other_labels(file.schema_arrow, columns[1]):
                labels.notes.add(f"left out, other columns of classes beside {columns[1]}", name)
            for number in _groups_with_gaps(file, columns[0]):
                name = f"{os.path.basename(path)}:{number}"
                labels.notes.add("row groups with a row without an image, an error where it is read", name)
            labels.add(path, _values(path, file, columns[1]), _class_names(file.schema_arrow, columns[1]))
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                self._groups.append((shard, number))
                counts.append(group.num_rows)
                sizes.append(group.total_byte_size)
            progress.add(1)
        self._image = columns[0]
        self.labels, self.classes, self.notes = labels.numbered()
        self.sizes = np.repeat(np.array(sizes, np.int64), counts)
        self._ends = np.cumsum(counts)
        self._forget()

    @property
    def names(self) -> NDArray[np.bytes_]:
        starts = self._ends - np.diff(self._ends, prepend=0)
        return np.array(
            [
                f"{os.path.basename(self._files[shard])}:{number}:{row}".encode()
                for (shard, number), start, end in zip(self._groups, starts, self._ends, strict=True)
                for row in range(end - start)
            ]
        )

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open: OrderedDict[int, Any] = OrderedDict()
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
            self._kept[group] = _column(self._file(shard), number, self._image)
            if len(self._kept) > _GROUPS_KEPT:
                self._kept.popitem(last=False)
        return self._kept[group]

    def _file(self, shard: int) -> Any:
        """Open; the one that was used longest ago is closed where too many are."""
        if shard not in self._open:
            if len(self._open) == _FILES_KEPT:
                self._open.popitem(last=False)[1].close()
            self._open[shard] = _open(self._files[shard])
        self._open.move_to_end(shard)
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": OrderedDict(), "_kept": OrderedDict()}


def _open(path: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        with naming_the_shortage():
            file = pyarrow.parquet.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not a whole parquet file ({error}); fetch or write it again") from error
    rows = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    if sum(rows) != file.metadata.num_rows:
        raise DataError(
            f"{path}: not a whole parquet file ({sum(rows)} rows in its {len(rows)} row groups, but "
            f"{file.metadata.num_rows} stated); fetch or write it again"
        )
    return file


def _column(file: Any, group: int, name: str) -> Any:
    """One column of a row group. Raises OSError where it is damaged."""
    import pyarrow

    try:
        values = file.read_row_group(group, columns=[name], use_threads=False).column(0)
    except (ValueError, pyarrow.ArrowException) as error:  # a column's name that is no UTF-8 any more, too
        raise OSError(str(error)) from error
    if len(values) != file.metadata.row_group(group).num_rows:
        raise OSError(f"{len(values)} values of {name}, not {file.metadata.row_group(group).num_rows}")
    return values


def _columns(path: str, schema: Any) -> tuple[str, str]:
    """The names of the columns with the encoded images and with the classes."""
    import pyarrow.types as types

    def encoded(kind: Any) -> bool:
        fields = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        return bool(fields or types.is_fixed_size_binary(kind) or str(kind) in _ENCODED)

    images = [field.name for field in schema if encoded(field.type)]
    typed = [name for name in _typed(schema, "Image") if name in images]
    images, labels = typed or images, _label_columns(schema)
    if len(images) != 1 or not labels or len(set(schema.names)) < len(schema.names):
        raise RecipeError(
            f"{path}: columns {', '.join(f'{field.name} ({field.type})' for field in schema)}. One column of "
            "encoded images and one of class numbers or names are needed, the latter called "
            f"{', '.join(_LABELS)} or of the type ClassLabel, and no name twice"
        )
    named = [name for name in schema.names if name.lower() in _IMAGES]
    if named and images[0] not in named:
        raise RecipeError(
            f"{path}: the column {named[0]} is of the type {schema.field(named[0]).type}. Images are encoded "
            f"files: write it as such, or, if the images are in {images[0]}, give it another name"
        )
    kind = schema.field(labels[0]).type
    if not _of_classes(kind):
        raise RecipeError(
            f"{path}: the column {labels[0]} is of the type {kind}. Classes are numbers or names: write it "
            "as one of them, or, if the classes are in another column, give it another name"
        )
    return images[0], labels[0]


def _label_columns(schema: Any) -> list[str]:
    """Those that by their names may hold the classes, whatever their type: the known names in their order
    and in any case, then the only ClassLabel.
    """
    known = [
        name for label in _LABELS for name in sorted(schema.names, reverse=True) if name.lower() == label
    ]
    typed = [name for name in _typed(schema, "ClassLabel") if name in schema.names]
    return list(dict.fromkeys((*known, *(typed if len(typed) == 1 else ()))))


def _of_classes(kind: Any) -> bool:
    """Whether a column of that type is read as numbers, true and false among them, or as names."""
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(numbers or str(kind) in _NAMES)


def _other_labels(schema: Any, chosen: str) -> list[str]:
    typed = [name for name in _typed(schema, "ClassLabel") if name in schema.names]
    names = dict.fromkeys((*_label_columns(schema), *typed, "coarse_label"))
    return [name for name in names if name != chosen and name in schema.names]


def _groups_with_gaps(file: Any, column: str) -> list[int]:
    """The row groups in which, by the file's own statistics, a row has no image."""
    images = (column, f"{column}.bytes")
    found = []
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        parts = [group.column(part) for part in range(group.num_columns)]
        known = [part.statistics for part in parts if part.path_in_schema in images and part.statistics]
        if any(statistics.null_count for statistics in known if statistics.has_null_count):
            found.append(number)
    return found


def _values(path: str, file: Any, column: str) -> NDArray[Any]:
    """Of every row, its class as a number or a name. Raises DataError with the row group that is damaged."""
    import pyarrow.types as types

    parts = []
    for number in range(file.num_row_groups):
        try:
            values = _column(file, number, column)
        except OSError as error:
            raise DataError(
                f"{path}: damaged in row group {number}, of {file.num_row_groups} ({error}); fetch or write "
                "it again"
            ) from error
        if values.null_count:
            raise DataError(f"{path}: {values.null_count} rows of row group {number} have no {column}")
        if not types.is_dictionary(values.type) and str(values.type) not in _NAMES:
            parts.append(_numbers(path, number, column, values.to_numpy()))
        else:
            parts.append(np.array(values.to_pylist(), np.str_))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _numbers(path: str, group: int, column: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """Labels of any type of number. Raises DataError for one that 64 bits with a sign cannot hold as a whole
    number.
    """
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        wrong = values[~(np.abs(values) < 2**53) | (values != np.trunc(values))]  # nan is not below
    else:
        wrong = values[values > np.iinfo(np.int64).max]
    if len(wrong):
        raise DataError(
            f"{path}: row group {group} has {wrong[0]} as {column}; labels number the classes, from 0"
        )
    return values.astype(np.int64)


def _features(schema: Any) -> dict[str, Any]:
    """The notes that Hugging Face's `datasets` leaves in the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _typed(schema: Any, kind: str) -> list[str]:
    """The columns of one of the types of `datasets`."""
    features = _features(schema).items()
    return [name for name, feature in features if isinstance(feature, dict) and feature.get("_type") == kind]


def _class_names(schema: Any, column: str) -> list[str] | None:
    feature = _features(schema).get(column)
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else None


class _Labels:
    """The labels of all files, brought to one numbering by their names."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []
        self._names: list[str] | None = None
        self._first = ""
        self.notes = Notes()

    def add(self, path: str, values: NDArray[Any], names: list[str] | None) -> None:
        """Raises RecipeError for a file whose class names are not those of the first."""
        text = values.dtype.kind == "U"
        names = None if text else names
        if not self._parts:
            if names and len(set(names)) < len(names):
                raise RecipeError(f"{path}: a class is named twice in {', '.join(names)}")
            self._first, self._names = path, names
        elif names != self._names or text != (self._parts[0].dtype.kind == "U"):
            values = self._renumbered(path, values, names)
        self._parts.append(values)

    def _renumbered(self, path: str, values: NDArray[Any], names: list[str] | None) -> NDArray[Any]:
        ours = self._names
        if not ours or not names or sorted(ours) != sorted(names):
            raise RecipeError(
                f"{path}: its classes are not those of {self._first} (names in one of them alone, or other "
                "names); write both with the same ClassLabel"
            )
        self.notes.add(
            "files with the class names in another order, numbered by name", os.path.basename(path)
        )
        table = np.array([ours.index(name) for name in names], np.int64)
        return renumbered(values, table)

    def numbered(self) -> tuple[NDArray[np.int64], Sequence[str] | None, tuple[Note, ...]]:
        values = np.concatenate(self._parts)
        if values.dtype.kind != "U":
            return values, self._names, self.notes.collected()
        found, labels = np.unique(values, return_inverse=True)
        classes = class_order(map(str, found))
        place = {name: label for label, name in enumerate(classes)}
        numbers = np.array([place[str(name)] for name in found], np.int64)
        return numbers[labels], list(map(composed, classes)), self.notes.collected()
