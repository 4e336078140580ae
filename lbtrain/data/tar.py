"""Images in tar files, read at random without unpacking: where each member starts and how long it is, found
once and kept.

timm's own tar reader was not taken: it shares one file position among the forked loader workers, holds an
object per member in each, and its index is neither checked against the files nor written in one go.
"""

import os
import posixpath
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lbtrain.data.formats import is_hidden, is_image
from lbtrain.data.index import Notes, class_order, composed, natural_key, printable
from lbtrain.data.index_cache import (
    Arrays,
    notes_as_array,
    notes_of,
    read_index,
    stamp_of,
    state_of,
    write_index,
)
from lbtrain.data.progress import Progress
from lbtrain.data.samples import Labels, are_numbers, labels_of_samples, note_numbers, samples_of
from lbtrain.data.splits import SPLITS
from lbtrain.data.tar_scan import Member, scan
from lbtrain.errors import DataError, RecipeError

_LABEL_ENDINGS = frozenset(("cls", "class", "id", "index", "json", "label", "labels", "target", "txt"))


class TarMembers:
    """Images in one tar file or several, ordered by class, then by path.

    The class is the label of a webdataset sample, or the first folder (CLASS/IMAGE, below train/ or any other
    folder that all images share). `per_class`: where images lie directly in a tar file, its name is the
    class. Raises RecipeError for tar files without classes, DataError for damaged ones (see `scan`).
    """

    def __init__(self, tars: Sequence[Path], *, per_class: bool = False):
        stamp = stamp_of(map(state_of, tars))
        index = read_index(tars) or write_index(tars, stamp, make_index(tars, per_class))
        self._tars = [str(path) for path in tars]
        self._shards, self._starts, self.sizes, self.names = (
            index[key] for key in ("shards", "starts", "sizes", "names")
        )
        self.labels = index["labels"]
        self.classes: Sequence[str] | None = [os.fsdecode(name) for name in index["classes"].tolist()] or None
        self.notes = notes_of(index)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        # Opened for this image alone: a data set may have more shards than a process may have files open.
        with open(self._tars[int(self._shards[index])], "rb", buffering=0) as file:
            return os.pread(file.fileno(), int(self.sizes[index]), int(self._starts[index]))

    def name(self, index: int) -> str:
        return f"{self._tars[int(self._shards[index])]}:{os.fsdecode(self.names[index].item())}"


class _Image(NamedTuple):
    group: str
    name: str
    shard: int
    member: Member


def make_index(tars: Sequence[Path], per_class: bool = False) -> Arrays:
    """Of each image: shards, starts, sizes, labels, names; then the class names, and notes as JSON."""
    progress, notes = (
        Progress(f"indexing {tars[0].parent}", sum(path.stat().st_size for path in tars)),
        Notes(),
    )
    files = [_shown(scan(path, progress, notes), notes) for path in tars]
    labels = [_labels(path, each, notes) for path, each in zip(tars, files, strict=True)]
    if any(labels):
        images, classes = _in_samples(tars, files, labels, notes)
    else:
        images = _in_folders(tars, files, per_class, notes)
        classes = class_order(image.group for image in images)
    if not images:
        raise RecipeError(
            f"{', '.join(map(str, tars[:3]))}: no images in the tar files; members are expected as "
            "CLASS/IMAGE.jpg, "
            "or as KEY.jpg with KEY.cls"
        )
    label_of = {name: label for label, name in enumerate(classes)}
    numbers = [label_of[image.group] if classes else int(image.group.partition(".")[0]) for image in images]
    order = sorted(
        range(len(images)),
        key=lambda place: (numbers[place], natural_key(images[place].name), images[place].shard),
    )
    return {
        "shards": np.array([images[place].shard for place in order], np.int32),
        "starts": np.array([images[place].member.start for place in order], np.int64),
        "sizes": np.array([images[place].member.size for place in order], np.int64),
        "labels": np.array([numbers[place] for place in order], np.int64),
        "names": np.array([os.fsencode(images[place].name) for place in order]),
        "classes": np.array([os.fsencode(composed(name)) for name in classes], np.bytes_),
        "notes": notes_as_array(notes.collected()),
    }


def _shown(files: dict[str, Member], notes: Notes) -> dict[str, Member]:
    """Those that are not hidden."""
    for name in filter(is_hidden, files):
        notes.add("left out, hidden", name)
    return {name: member for name, member in files.items() if not is_hidden(name)}


def _labels(path: Path, files: dict[str, Member], notes: Notes) -> Labels | None:
    with path.open("rb") as file:

        def read(member: Member) -> bytes:
            return os.pread(file.fileno(), member.size, member.start)

        return labels_of_samples(files, read, str(path), notes)


def _in_samples(
    tars: Sequence[Path], files: list[dict[str, Member]], labels: list[Labels | None], notes: Notes
) -> tuple[list[_Image], list[str]]:
    """The images with the labels of their samples, and the classes where labels are names, not numbers."""
    without = next((path for path, each in zip(tars, labels, strict=True) if each is None), None)
    if without:
        raise DataError(
            f"{without}: no labels in it, but other tar files of the split have some (KEY.cls or .json)"
        )
    images = [
        _Image(label, name, shard, files[shard][name])
        for shard, each in enumerate(labels)
        for name, label in (each or {}).items()
    ]
    shard_of: dict[str, int] = {}
    for image in images:
        if shard_of.setdefault(image.name, image.shard) != image.shard:
            notes.add("named alike in two tar files, which both count", image.name)
    if all(are_numbers(each or {}) for each in labels):
        return images, []
    for each in labels:
        note_numbers(each or {}, notes)
    return images, class_order(image.group for image in images)


def _in_folders(
    tars: Sequence[Path], files: list[dict[str, Member]], per_class: bool, notes: Notes
) -> list[_Image]:
    """The images with the names of their class folders, or of their tar files."""
    found = [(shard, name) for shard, each in enumerate(files) for name in each if _is_wanted(name, notes)]
    above = _shared_folders(name for _, name in found)
    paths = [(shard, name, name.removeprefix(above)) for shard, name in found]
    groups: list[set[str]] = [set() for _ in tars]
    for shard, _, path in paths:
        groups[shard].add(_group(path))
    alone = len(tars) > 1 and len(set.union(*groups)) == 1
    images: list[_Image] = []
    seen: dict[str, int] = {}
    for shard, name, path in paths:
        if per_class and (alone or groups[shard] == {""}):
            group = tars[shard].stem
        elif not (group := _group(path)) or not name.startswith(above):
            notes.add("left out, in no class folder", name)
            continue
        elif seen.setdefault(path, shard) != shard:
            raise DataError(
                f"{printable(name)} is in {tars[seen[path]]} and in {tars[shard]}: remove one of them"
            )
        images.append(_Image(group, name, shard, files[shard][name]))
    for folder in {posixpath.dirname(path) for _, _, path in paths if path.count("/") > 1}:
        notes.add("folders inside class folders, merged into their class", folder)
    guessed = per_class and all(image.group == tars[image.shard].stem for image in images)
    for tar, each in zip(tars, files, strict=True):
        _check_no_samples(tar, each, guessed)
        if guessed and images:
            notes.add("classes guessed from the names of tar files", tar.name)
    return images


def _check_no_samples(tar: Path, files: dict[str, Member], guessed: bool) -> None:
    """Raises RecipeError where images are samples whose labels are not found: every image has a file of its
    key that may hold a label or, where the class is `guessed` from the tar file's name, any has any file.
    """
    samples = {
        key: [(ending, name) for ending, name in parts if not is_image(name)]
        for key, parts in samples_of(files).items()
        if any(is_image(name) for _, name in parts)
    }
    beside = {key: others[0][1] for key, others in samples.items() if others}
    labelled = [
        any(not _LABEL_ENDINGS.isdisjoint(ending.split(".")) for ending, _ in others)
        for others in samples.values()
    ]
    if beside and (guessed or all(labelled)):
        key, name = next(iter(beside.items()))
        raise RecipeError(
            f"{tar}: {printable(name)} belongs to an image, so these are samples of webdataset, but no label "
            f"is in {printable(key)}.cls, nor label or cls in {printable(key)}.json. The name of a shard is "
            "not a class, nor a folder of a part of one. Where folders are the classes, leave out such files"
        )


def _group(path: str) -> str:
    """The first folder of a path; empty where there is none."""
    return path.partition("/")[0] if "/" in path else ""


def _is_wanted(name: str, notes: Notes) -> bool:
    wanted = is_image(name)
    if not wanted:
        notes.add("left out, no image by the ending of the name", name)
    return wanted


def _shared_folders(names: Iterable[str]) -> str:
    """The folders that all images lie in, such as imagenet/train/, without the class folder."""
    folders = {posixpath.dirname(name) for name in names} - {""}
    shared = posixpath.commonpath(folders) if folders else ""
    if shared in folders and posixpath.basename(shared) not in {*chain(*SPLITS.values())}:
        shared = posixpath.dirname(shared)  # a class folder: images lie directly in it
    return f"{shared}/" if shared else ""
