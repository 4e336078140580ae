"""Where encoded photos are: one interface for files in folders, members of tar files, rows of parquet files,
timm's readers, and parts of these.

All are read at random, so that the sample stream (lbtrain.data.stream) decides the order, and all may be
copied into worker processes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lbtrain.data.index import Note, Notes, SplitIndex, digests, sampled
from lbtrain.errors import RecipeError


class Container(Protocol):
    """One half of a data set."""

    classes: Sequence[str] | None
    """Names of the classes in the order of their labels; None where only numbers are known."""
    labels: NDArray[np.int64]
    notes: tuple[Note, ...]
    """What was left out, linked, repeated, merged or guessed when the index was made."""

    @property
    def names(self) -> NDArray[np.bytes_]:
        """What names each image wherever the data set lies: its path inside, or its file and row."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each image, or of the row group that it is in."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The encoded image. Raises OSError."""

    def name(self, index: int) -> str:
        """The path to name in a message."""


class Rows:
    """Hugging Face `datasets` behind timm's reader (format timm:hfds/NAME): a memory-mapped Arrow file."""

    def __init__(self, name: str, root: Path, split: str):
        self._where = f"{name} ({split})"
        try:
            from timm.data.readers import create_reader

            self._reader: Any = create_reader(name, root=str(root), split=split)
        except ImportError as error:
            raise RecipeError(
                f"data.format=timm:{name} needs the package datasets: pip install datasets ({error})"
            ) from error
        except Exception as error:  # whatever the package raises: no such name, split or column
            raise RecipeError(f"data.format=timm:{name}, data.root={root}, split {split}: {error}") from error
        names = self._reader.class_to_idx
        self.classes: Sequence[str] | None = sorted(names, key=names.__getitem__) if names else None
        self.labels = np.fromiter(self._reader.iter_targets(), np.int64)
        self.names, self.sizes = np.arange(len(self.labels)).astype(np.bytes_), np.zeros_like(self.labels)
        self.notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        with self._reader[index][0] as file:
            return bytes(file.read())

    def name(self, index: int) -> str:
        return f"row {index} of {self._where}"


class Part:
    """Some images of another container, in the order of `indices`, with their own labels and class names."""

    def __init__(
        self,
        whole: Container,
        indices: NDArray[np.int64],
        *,
        labels: NDArray[np.int64] | None = None,
        classes: Sequence[str] | None = None,
        notes: tuple[Note, ...] = (),
    ):
        self._whole, self._indices = whole, indices
        self.labels = whole.labels[indices] if labels is None else labels
        self.classes: Sequence[str] | None = classes or whole.classes
        self.notes = whole.notes + notes

    @property
    def names(self) -> NDArray[np.bytes_]:
        return self._whole.names[self._indices]

    @property
    def sizes(self) -> NDArray[np.int64]:
        return self._whole.sizes[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> bytes:
        return self._whole.read(int(self._indices[index]))

    def name(self, index: int) -> str:
        return self._whole.name(int(self._indices[index]))


def num_classes(container: Container) -> int:
    """By the names of the classes; where there are none, by the largest label."""
    return (
        len(container.classes) if container.classes is not None else int(container.labels.max(initial=-1)) + 1
    )


def renumbered(labels: NDArray[np.int64], table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each label its number in `table`; -1 for one that the table does not have, which is named when it is
    read.
    """
    known = (labels >= 0) & (labels < len(table))
    numbers: NDArray[np.int64] = np.append(table, -1)[np.where(known, labels, len(table))]
    return numbers


def index_of(container: Container) -> SplitIndex:
    """What is said of a container before a run."""
    parts = digests(
        classes=container.classes,
        names=container.names,
        labels=container.labels,
        sizes=container.sizes,
        bytes=sampled(container.sizes, container.read),
    )
    notes = container.notes + _about_labels(container)
    return SplitIndex(len(container), num_classes(container), container.classes, parts, notes)


def _about_labels(container: Container) -> tuple[Note, ...]:
    """Of images whose label is no class, and of classes without images."""
    notes, number, labels = Notes(), num_classes(container), container.labels
    names = list(map(str, range(number))) if container.classes is None else container.classes
    beyond = np.flatnonzero((labels < 0) | (labels >= number))
    for name in container.names[beyond].tolist() if len(beyond) else ():
        notes.add("with a label that is none of the classes, an error where they are read", os.fsdecode(name))
    counts = np.bincount(labels[(labels >= 0) & (labels < number)], minlength=number)
    for label in np.flatnonzero(counts == 0).tolist() if len(labels) else ():
        notes.add("classes without an image", names[label])
    return notes.collected()
