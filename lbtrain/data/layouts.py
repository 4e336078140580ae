"""data.root and data.format -> where the photos of each split of a data set are."""

import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lbtrain.data.containers import Container, Part, Rows, renumbered
from lbtrain.data.folder import Files
from lbtrain.data.formats import is_hidden_folder
from lbtrain.data.index import Note, Notes, composed, natural_key, printable
from lbtrain.data.parquet import ParquetRows
from lbtrain.data.splits import (
    NO_VALIDATION,
    SPLITS,
    VALIDATION_REMEDIES,
    check_share,
    hold_out,
    read_classes,
    with_classes,
)
from lbtrain.data.tar import TarMembers
from lbtrain.errors import RecipeError
from lbtrain.recipe import DataConfig

_MOST_CLASSES = 10**6
_KINDS_OF_FILES = frozenset(
    ("images", "imgs", "image", "jpegimages", "labels", "annotations", "masks", "mask", "segmentationclass")
)
"""Names of folders, in lower case, that part images from their boxes or masks: YOLO's, Pascal VOC's, those of
segmentation.
"""
_TRAINING, _NOT_TRAINING = (
    re.compile(rf"(seg|data|images?)?[-_ ]?({words})[-_ ]?(set|data|images?|split)?[-_ ]?\d*", re.IGNORECASE)
    for words in ("train|training", "val|valid|validation|test|testing|eval|evaluation|dev|holdout")
)
"""Names of folders that are splits, not classes: Training, seg_test, val2017."""
LAYOUTS = """\
  folder            root/train/CLASS/IMAGE.jpg and root/val/CLASS/IMAGE.jpg (or validation, valid, test);
                    or root/CLASS/IMAGE.jpg with data.validation_share=0.1
  tar               root/train.tar with CLASS/IMAGE.jpg inside, or with KEY.jpg and KEY.cls (webdataset),
                    or root/train/*.tar, one per class or as shards; root/val likewise
  parquet           root/train-*.parquet or root/data/train-*.parquet; root/validation-* likewise (Hugging
                    Face's names)
  timm:hfds/NAME    a data set of the package `datasets`, with root as its cache folder
"""


def open_splits(config: DataConfig, root: Path) -> tuple[Container, Container | None]:
    """The training and the validation split. What was opened stays open: plan, statistics and task all ask.
    Raises RecipeError.
    """
    classes = Path(config.classes).expanduser() if config.classes else None
    places = (config.format, root, config.validation_root, config.validation_share, classes)
    return _open_splits(*places)


@functools.lru_cache(maxsize=2)
def _open_splits(
    form: str, root: Path, validation_root: str, share: float, classes: Path | None
) -> tuple[Container, Container | None]:
    train, validation = _splits(form, root, validation_root, share)
    _check_folders(train, root)
    train.notes += _beside(form, root, ("train",) if validation_root else ("train", "validation"), classes)
    if classes:
        numbers = read_classes(classes)
        train = with_classes(train, numbers, classes)
        validation = with_classes(validation, numbers, classes) if validation else None
    if validation:
        validation = _with_classes_of(validation, train, root)
    _check_labels(train, root)
    return train, validation


def _check_folders(train: Container, root: Path) -> None:
    """Raises RecipeError where the folders taken for classes are splits, or the folder above the classes."""
    classes = train.classes or ()
    of_training = [name for name in classes if _TRAINING.fullmatch(name)]
    others = [name for name in classes if _NOT_TRAINING.fullmatch(name)]
    if classes and ((of_training and others) or len(of_training + others) == len(classes)):
        raise RecipeError(
            f"data.root={root}: its folders of classes are called {_some(of_training + others)}, which are "
            "splits. Call them train and val, or name them: data.root=FOLDER data.validation_root=FOLDER"
        )
    paths = [os.fsdecode(name).split("/") for name in train.names.tolist()] if len(classes) == 1 else []
    if paths and all(len(path) > 2 and composed(path[0]) == classes[0] for path in paths):
        raise RecipeError(
            f"data.root={root}: the folder of the only class, {printable(classes[0])}, has no images but "
            f"folders in it, {_some(sorted({path[1] for path in paths}))}. If those are the classes, they "
            "must lie where it lies: set data.root, or move them"
        )


def _check_labels(train: Container, root: Path) -> None:
    """Raises RecipeError unless the training images have the numbers of classes."""
    names = [name.lower() for name in train.classes or ()]
    if names and _KINDS_OF_FILES.issuperset(names):
        raise RecipeError(
            f"data.root={root}: its folders of classes are called {', '.join(train.classes or ())}, as where "
            "images have boxes or masks. A classifier's images lie in one folder per class; boxes are read "
            "in COCO's format, by data.name=coco"
        )
    largest = int(train.labels.max(initial=-1))
    if largest < 0:
        raise RecipeError(f"data.root={root}: the training images have no labels but {largest}")
    if largest >= _MOST_CLASSES:
        raise RecipeError(
            f"data.root={root}: a training image has the label {largest}. Labels number the classes, from 0 "
            f"to below {_MOST_CLASSES:,}; are these ids of something else?"
        )


def _splits(form: str, root: Path, validation_root: str, share: float) -> tuple[Container, Container | None]:
    train = _found(form, root, "train")
    own = None if validation_root else _found(form, root, "validation")
    if not train and (share or validation_root):
        train = Files(root) if form in ("auto", "folder") else None
    if not train:
        raise _no_images(form, root, "training", "")
    check_share(root, share, validation_root, own)
    if share:
        return hold_out(train, share)
    if validation_root == NO_VALIDATION:
        return train, None
    if validation_root:
        own = _elsewhere(form, Path(validation_root).expanduser())
    if not own:
        raise _no_images(form, root, "validation", f" {VALIDATION_REMEDIES}")
    return train, own


def _beside(form: str, root: Path, splits: Sequence[str], classes: Path | None) -> tuple[Note, ...]:
    """What lies in the root directory, or in data/ of it, or beside the tar or parquet files of a split, and
    is of no split that is read or named.
    """
    notes = Notes()
    if form.startswith("timm:") or not (used := _files_of(form, root, splits)):
        return ()
    folders = {path.parent for path in used}
    top = root / "data" if root / "data" in folders else root
    used |= folders | ({classes} if classes else set())
    for path in (path for folder in {top, *folders} for path in folder.iterdir()):
        if path not in used:
            what = "left out, hidden" if _is_hidden(path) else "left out, beside the splits"
            notes.add(what, path.name if path.parent == top else f"{path.parent.name}/{path.name}")
    return notes.collected()


def _files_of(form: str, root: Path, splits: Sequence[str]) -> set[Path]:
    """The files or folders that hold some splits."""
    places = (_place(form, root, part) for split in splits for part in SPLITS[split])
    return {path for place in places if place for path in place[1]}


def _elsewhere(form: str, root: Path) -> Container:
    """A validation split in a folder of its own: CLASS/IMAGE directly in it, or any layout that it has one
    in.
    """
    if not root.is_dir():
        raise RecipeError(f"data.validation_root={root}: no such folder")
    return _found(form, root, "validation") or Files(root)


def _no_images(form: str, root: Path, split: str, remedy: str) -> RecipeError:
    there = sorted(os.listdir(root), key=natural_key)
    return RecipeError(
        f"data.root={root}: no {split} images in it, data.format={form}.{remedy} Known "
        f"layouts:\n{LAYOUTS}The folder holds {_some(there) or 'nothing'}."
    )


def _found(form: str, root: Path, split: str) -> Container | None:
    """The split in the first place that has it. Raises RecipeError where two layouts have it."""
    if form.startswith("timm:"):
        return _through_timm(form.removeprefix("timm:"), root, split)
    if form not in ("auto", *_FINDERS):
        raise RecipeError(
            f"data.format={form}: not a layout known. Known layouts, found by themselves with "
            f"data.format=auto:\n{LAYOUTS}"
        )
    there = [(part, place) for part in SPLITS[split] if (place := _place(form, root, part))]
    if not there:
        return None
    (part, (name, paths)), *others = there
    container = _open(name, paths, part)
    if others:
        names = tuple(name for name, _ in others)
        container.notes += (Note("left out, other splits beside the validation split", len(names), names),)
    return container


def _place(form: str, root: Path, part: str) -> tuple[str, Sequence[Path]] | None:
    """The layout of a split and its files. Raises RecipeError where there are two."""
    names = _FINDERS if form == "auto" else (form,)
    found = [(name, paths) for name in names if (paths := _FINDERS[name](root, part))]
    if len(found) > 1:
        both = " and ".join(f"{name} ({paths[0]})" for name, paths in found)
        raise RecipeError(f"data.root={root}: two layouts in one place, {both}. Choose one with data.format")
    return found[0] if found else None


def _open(name: str, places: Sequence[Path], part: str) -> Container:
    if name == "folder":
        return Files(places[0])
    _check_generations(places)
    return (
        TarMembers(places, per_class=places[0].parent.name == part) if name == "tar" else ParquetRows(places)
    )


def _folder(root: Path, part: str) -> Sequence[Path]:
    folder = root / part
    if not folder.is_dir():
        return []
    return [folder] if any(path.is_dir() and not _is_hidden(path) for path in folder.iterdir()) else []


def _tars(root: Path, part: str) -> Sequence[Path]:
    return _one_place(
        [root / f"{part}.tar"] if (root / f"{part}.tar").is_file() else [],
        _shown(root / part, "*.tar"),
        sorted({*_shown(root, f"{part}-*.tar"), *_shown(root, f"*-{part}-*.tar")}),
    )


def _parquets(root: Path, part: str) -> Sequence[Path]:
    return _one_place(
        *(
            [path for path in _shown(root.joinpath(*inside), "*.parquet") if _is_of(path, part)]
            for inside in ((), ("data",))
        ),
        _shown(root / part, "*.parquet"),
    )


def _shown(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern that are not hidden: macOS leaves ._NAME beside what it copies."""
    return sorted(path for path in folder.glob(pattern) if not _is_hidden(path))


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or (is_hidden_folder(path.name) and path.is_dir())


def _is_of(path: Path, part: str) -> bool:
    """train.parquet and train-00000.parquet are of train; trainval.parquet is not."""
    return re.match(part + "(?![A-Za-z])", path.name) is not None


def _one_place(*candidates: list[Path]) -> Sequence[Path]:
    """The files of the only place that has any. Raises RecipeError where two have some."""
    found = [paths for paths in candidates if paths]
    if len(found) > 1:
        both = " and ".join(str(paths[0]) for paths in found[:2])
        raise RecipeError(f"the split is there twice, {both}: remove one of them, or set data.root to one")
    return found[0] if found else []


_FINDERS: dict[str, Callable[[Path, str], Sequence[Path]]] = {
    "tar": _tars,
    "parquet": _parquets,
    "folder": _folder,
}
_SHARD = re.compile(r"(.*?)([0-9]+)-of-([0-9]+)(.*)")


def _check_generations(paths: Sequence[Path]) -> None:
    """Raises RecipeError for shards NAME-00000-of-00008 that are not all there, or not of one generation."""
    parsed = {path: _SHARD.fullmatch(path.name) for path in paths}
    totals = {match and (match[1], match[3], match[4]): path for path, match in parsed.items()}
    if len(totals) > 1 and any(totals):
        names = " and ".join(sorted(path.name for path in totals.values())[:2])
        raise RecipeError(f"{paths[0].parent}: {names} are of two generations of shards; remove one of them")
    numbers = {int(match[2]) for match in parsed.values() if match}
    total = next((int(match[3]) for match in parsed.values() if match), 0)
    first = int(total in numbers)  # some count from 1
    if missing := sorted(set(range(first, total + first)) - numbers):
        raise RecipeError(
            f"{paths[0].parent}: {len(numbers)} of {total} shards are there; the first that is missing has "
            f"number {missing[0]}. Fetch it"
        )


def _through_timm(name: str, root: Path, split: str) -> Container:
    if name.partition("/")[0] != "hfds":
        raise RecipeError(
            f"data.format=timm:{name}: only timm's hfds readers give samples in any order, which the sample "
            "stream needs (wds, tfds and hfids are streams; folders and tar files are read without a "
            f"prefix). Known layouts:\n{LAYOUTS}"
        )
    return Rows(name, root, split)


def _with_classes_of(container: Container, train: Container, root: Path) -> Container:
    """The validation split with the labels of the training split; either may lack images of a class."""
    ours, theirs = container.classes, train.classes
    if (ours is None) != (theirs is None):
        named, numbered = ("training", "validation") if ours is None else ("validation", "training")
        raise RecipeError(
            f"data.root={root}: the classes of the {named} images have names, those of the {numbered} images "
            "only numbers, so which is which is not known. Write both with names, or both with numbers"
        )
    if ours is None or theirs is None or list(ours) == list(theirs):
        return container
    labels = np.unique(container.labels)
    with_images = {ours[label] for label in labels if 0 <= label < len(ours)}
    if strangers := sorted(with_images - set(theirs)):
        raise RecipeError(
            f"data.root={root}: classes {_some(strangers)} are in val but have no images in train"
        )
    label_of = {name: label for label, name in enumerate(theirs)}
    table = np.array([label_of.get(name, -1) for name in ours], np.int64)
    everything = np.arange(len(container))
    return Part(container, everything, labels=renumbered(container.labels, table), classes=theirs)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
