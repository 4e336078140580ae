"""Images in folders, root/CLASS/.../IMAGE, found once and kept."""

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lbtrain.data.formats import extensions, is_hidden_folder
from lbtrain.data.index import Notes, class_order, composed, natural_key, printable
from lbtrain.data.index_cache import (
    Arrays,
    State,
    notes_as_array,
    notes_of,
    read_index,
    state_in,
    state_of,
    write_folder_index,
)
from lbtrain.data.progress import Progress
from lbtrain.errors import DataError, RecipeError


class Files:
    """The first folder below `root` is the class; images are ordered by class, then by path. Links are
    followed; hidden files and folders, those of systems (@eaDir, lost+found) and files outside a class folder
    are left out and counted. Raises RecipeError for a root without images, DataError for a link that leads
    nowhere or round in a circle and for a folder that cannot be read.
    """

    def __init__(self, root: Path):
        index = _cached_index(root) or make_index(root)
        self._root = os.fsencode(root)
        self.names, self.sizes, self.labels = (index[key] for key in ("names", "sizes", "labels"))
        self.classes: Sequence[str] | None = [os.fsdecode(name) for name in index["classes"].tolist()]
        self.notes = notes_of(index)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        with open(self._path(index), "rb", buffering=0) as file:
            return file.read()

    def name(self, index: int) -> str:
        return os.fsdecode(self._path(index))

    def _path(self, index: int) -> bytes:
        return self._root + b"/" + bytes(self.names[index])


def _cached_index(root: Path) -> Arrays | None:
    """With the sizes that the files have now: one that is written anew in its place leaves the times of its
    folder as they were.
    """
    index = read_index([root])
    try:
        return index and index | {"sizes": _sizes(root, index["names"])}
    except OSError:  # the walk says of what
        return None


def _sizes(root: Path, names: NDArray[np.bytes_]) -> NDArray[np.int64]:
    progress, sizes = Progress(f"reading the sizes in {root}", len(names)), np.empty(len(names), np.int64)
    above = os.fsencode(root) + b"/"
    for number, name in enumerate(names.tolist()):
        sizes[number] = os.stat(above + name).st_size
        progress.add(1)
    return sizes


def make_index(root: Path) -> Arrays:
    """Of each image: names, sizes, labels; then the class names, and notes as JSON."""
    walk = _Walk(root)
    if not walk.found:
        raise RecipeError(
            f"data.root={root}: no images in class folders. Images are expected as {root}/CLASS/IMAGE.jpg"
        )
    groups = class_order(walk.found)
    found = [each for group in groups for each in sorted(walk.found[group])]
    counts = [len(walk.found[group]) for group in groups]
    index: Arrays = {
        # Byte strings in one array: a list of a million objects is copied into every worker as soon as it is
        # read.
        "names": np.array(os.fsencode("\0".join(name for _, name, _ in found)).split(b"\0")),
        "labels": np.repeat(np.arange(len(counts)), counts),
        "classes": np.array([os.fsencode(composed(name)) for name in groups]),
        "notes": notes_as_array(walk.notes.collected()),
    }
    write_folder_index(root, walk.began, walk.states, index)
    return index | {"sizes": np.array([size for _, _, size in found], np.int64)}


class _Folder(NamedTuple):
    path: str
    name: str
    """Relative to the root, with a slash at the end; empty for the root."""
    above: frozenset[tuple[int, int]]
    """Device and inode of the folder and of those that lead to it."""


class _Walk:
    """`found`: of each class the images, as (natural key, path below the root, size in bytes). `states`: of
    each folder and link by its path below the root, before it was read.
    """

    def __init__(self, root: Path):
        self.began, state = time.time_ns(), os.stat(root)
        self.states: dict[str, State] = {"": state_in(state)}
        self.found: defaultdict[str, list[tuple[str, str, int]]] = defaultdict(list)
        self.notes = Notes()
        progress, groups = Progress(f"indexing {root}"), set()
        self._waiting = [_Folder(str(root), "", frozenset({_identity(state)}))]
        while self._waiting:
            folder = self._waiting.pop()
            group = folder.name.partition("/")[0]
            groups.add(group)
            try:
                progress.add(self._read(folder, group))
            except OSError as error:
                path = printable(os.fsdecode(error.filename or folder.path))
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        for group in groups - set(self.found) - {""}:
            self.notes.add("left out, class folders without images", group)

    def _read(self, folder: _Folder, group: str) -> int:
        """Sorts out what is in a folder; returns how many images."""
        endings, images = extensions(), []
        above = natural_key(folder.name)[0]  # ends with a slash: the key of a path is that of its parts
        with os.scandir(folder.path) as entries:
            for entry in entries:
                name = entry.name
                if not entry.is_file(follow_symlinks=False) and self._is_folder(folder, entry):
                    continue
                if name[0] == ".":
                    self.notes.add("left out, hidden", folder.name + name)
                elif name[name.rfind(".") :].lower() not in endings:
                    self.notes.add("left out, no image by the ending of the name", folder.name + name)
                elif not group:
                    self.notes.add("left out, in no class folder", name)
                else:
                    images.append((above + natural_key(name)[0], folder.name + name, _size(entry)))
        if images:
            self.found[group] += images
            if folder.name != f"{group}/":
                self.notes.add("folders inside class folders, merged into their class", folder.name[:-1])
        return len(images)

    def _is_folder(self, folder: _Folder, entry: os.DirEntry[str]) -> bool:
        """Of what is not simply a file; a folder is noted to be read later."""
        name, hidden = folder.name + entry.name, is_hidden_folder(entry.name)
        if entry.is_symlink():
            self.states[name] = state_of(entry.path)
            if not hidden:
                self.notes.add("reached through a link", name)
        if not entry.is_dir():
            if entry.is_symlink():
                return False
            self.notes.add("left out, neither a file nor a folder", name)
        elif hidden:
            self.notes.add("left out, hidden", name + "/")
        else:
            state = os.stat(entry.path)
            self.states[name] = state_in(state)
            self._waiting.append(_inside(folder, entry, _identity(state)))
        return True


def _inside(folder: _Folder, entry: os.DirEntry[str], identity: tuple[int, int]) -> _Folder:
    if identity in folder.above:
        raise DataError(
            f"{printable(entry.path)}: the link leads back to a folder that it lies in; remove it"
        )
    return _Folder(entry.path, f"{folder.name}{entry.name}/", folder.above | {identity})


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError as error:
        raise DataError(
            f"{printable(entry.path)}: the link leads to {printable(os.path.realpath(entry.path))}, which is "
            f"not there ({error.strerror}); repair or remove it"
        ) from error
