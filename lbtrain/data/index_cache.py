"""Indexes cached between runs, each under a stamp of the files that it was made from."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VERSION = 3
"""Of the rules by which indexes are made: an index made by others is stale."""

Arrays = dict[str, NDArray[Any]]


def stamp_of(files: Sequence[Path]) -> str:
    """The files, their sizes and times."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((_VERSION, states)).encode()).hexdigest()


def cache_file(files: Sequence[Path]) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lbtrain" / "index"
    names = "\n".join(str(path.resolve()) for path in files).encode(errors="surrogateescape")
    return folder / (hashlib.sha256(names).hexdigest()[:24] + ".npz")


def read_index(files: Sequence[Path]) -> Arrays | None:
    """The cached index, if it is whole and the files have not changed since."""
    try:
        with np.load(cache_file(files)) as cached:
            index = dict(cached)
    except (
        Exception
    ):  # not there, cut off, damaged: np.load raises whatever its parts do, and all it costs is a scan
        return None
    return index if str(index.get("stamp")) == stamp_of(files) else None


def write_index(files: Sequence[Path], stamp: str, index: Arrays) -> Arrays:
    """Written beside and renamed: readers, other ranks among them, find a whole index or none. A place that
    cannot be written is none. `stamp`: of the files before they were read.
    """
    path = cache_file(files)
    new = path.with_name(f"{path.stem}.{os.uname().nodename}.{os.getpid()}.new")
    index = index | {"stamp": np.array(stamp)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            np.savez(file, **index)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
    return index
