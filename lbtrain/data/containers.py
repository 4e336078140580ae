"""Where encoded photos lie: one interface for files in folders, members of tar files, rows of parquet files
and timm's readers.

All are read at random, so that the sample stream (lbtrain.data.stream) decides the order, and all may be
copied into worker processes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lbtrain.errors import RecipeError


class Container(Protocol):
    """One half of a data set."""

    classes: Sequence[str] | None
    """Names of the classes in the order of their labels; None where only numbers are known."""
    labels: NDArray[np.int64]

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The encoded image. Raises OSError."""

    def name(self, index: int) -> str:
        """The path to name in a message."""


class Files:
    """Images in folders, root/CLASS/.../IMAGE, found and ordered by timm's reader."""

    def __init__(self, root: Path):
        from timm.data.readers import create_reader

        try:
            reader = create_reader("", root=str(root))
        except RuntimeError as error:
            raise RecipeError(f"data.root={root}: {error}") from error
        self.classes: Sequence[str] | None = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
        # Byte strings in one array: a list of a million objects is copied into every worker as soon as it is
        # read.
        self._paths = np.array([os.fsencode(path) for path, _ in reader.samples])
        self.labels = np.array([label for _, label in reader.samples], np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        with open(self._paths[index], "rb", buffering=0) as file:
            return file.read()

    def name(self, index: int) -> str:
        return os.fsdecode(self._paths[index].item())


class Rows:
    """Hugging Face `datasets` behind timm's reader (format timm:hfds/NAME): an Arrow file mapped into memory."""

    def __init__(self, name: str, root: Path, split: str):
        self._where = f"{name} ({split})"
        try:
            from timm.data.readers import create_reader

            self._reader: Any = create_reader(name, root=str(root), split=split)
        except ImportError as error:
            raise RecipeError(
                f"data.format=timm:{name} needs the package datasets: pip install datasets ({error})"
            ) from error
        except (
            Exception
        ) as error:  # whatever the package raises: a name, a split or a column that is not there
            raise RecipeError(f"data.format=timm:{name}, data.root={root}, split {split}: {error}") from error
        names = self._reader.class_to_idx
        self.classes: Sequence[str] | None = sorted(names, key=names.__getitem__) if names else None
        self.labels = np.fromiter(self._reader.iter_targets(), np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        with self._reader[index][0] as file:
            return bytes(file.read())

    def name(self, index: int) -> str:
        return f"row {index} of {self._where}"
