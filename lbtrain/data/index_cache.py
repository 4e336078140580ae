"""Indexes cached between runs, each under a stamp of the files and folders that it was made from."""

import contextlib
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbtrain.data.formats import extensions
from lbtrain.data.index import Note

_VERSION = 8
"""Of the rules by which indexes are made: an index made by others is stale."""
SETTLED_NS = 2_000_000_000
"""A folder that changed later than this before it was read may change again within one tick of its times."""

Arrays = dict[str, NDArray[Any]]
State = tuple[int, int, int] | None
"""Size in bytes, time of the content and time of the inode, both in nanoseconds; None of what is not there.
"""


def state_of(path: str | os.PathLike[str]) -> State:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return state_in(found)


def state_in(found: os.stat_result) -> State:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def stamp_of(states: Iterable[State]) -> str:
    """Also of what decides the names and the order of images: Pillow's formats and Python's Unicode."""
    rules = _VERSION, sorted(extensions()), unicodedata.unidata_version
    return hashlib.sha256(repr((rules, list(states))).encode()).hexdigest()


def cache_file(files: Sequence[Path], part: str = "") -> Path:
    """Of the index of some files, or of a part of what they hold."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lbtrain" / "index"
    names = "\n".join([*(str(path.resolve()) for path in files), part]).encode(errors="surrogateescape")
    return folder / (hashlib.sha256(names).hexdigest()[:24] + ".npz")


def read_index(files: Sequence[Path], part: str = "") -> Arrays | None:
    """The cached index, if it is whole, of this user, and neither the files nor what is `watched` below the
    first of them has changed since.
    """
    try:
        with cache_file(files, part).open("rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            with np.load(file, allow_pickle=False) as cached:
                index = dict(cached)
        watched = [os.path.join(files[0], os.fsdecode(name)) for name in index.get("watched", ())]
    except Exception:
        # Not there, cut off, damaged: np.load raises whatever its parts do, and all it costs is a scan.
        return None
    stamp = stamp_of([*map(state_of, files), *map(state_of, watched)])
    return index if str(index.get("stamp")) == stamp else None


def _is_ours(state: os.stat_result) -> bool:
    """Whether nobody else could write the file: another user could name images that are not there."""
    return state.st_uid == os.geteuid() and not state.st_mode & 0o022


def write_folder_index(root: Path, began: int, states: Mapping[str, State], index: Arrays) -> None:
    """`states`: of the root ("") and of each folder and link below it, before it was read. None is written
    where a folder changed just before the walk `began` (in nanoseconds), or since.
    """
    if settled(states.values(), began):
        below = {name: state for name, state in states.items() if name}
        watched = np.array([os.fsencode(name) for name in below], np.bytes_)
        write_index([root], stamp_of([states[""], *below.values()]), index | {"watched": watched})


def settled(states: Iterable[State], began: int) -> bool:
    """Whether nothing changed so shortly before `began` that another change would not be seen."""
    return all(max(state[1:]) < began - SETTLED_NS for state in states if state)


def write_index(files: Sequence[Path], stamp: str, index: Arrays, part: str = "") -> Arrays:
    """Written beside and renamed: readers, other ranks among them, find a whole index or none. A place that
    cannot be written is none. `stamp`: of the files before they were read.
    """
    path = cache_file(files, part)
    new = path.with_name(f"{path.stem}.{os.uname().nodename}.{os.getpid()}.new")
    index = index | {"stamp": np.array(stamp)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.touch(mode=0o600)
        with new.open("wb") as file:
            np.savez(file, **index)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
    return index


def notes_as_array(notes: Sequence[Note]) -> NDArray[np.str_]:
    return np.array(json.dumps([(note.what, note.count, note.names) for note in notes]))


def notes_of(index: Arrays) -> tuple[Note, ...]:
    return tuple(Note(what, count, tuple(names)) for what, count, names in json.loads(str(index["notes"])))
