"""data.root and data.format -> where the photos of a half of the data set are."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lbtrain.data.containers import Container, Files, Rows
from lbtrain.data.parquet import ParquetRows
from lbtrain.data.tar import TarMembers
from lbtrain.errors import RecipeError

_SPLITS = {"train": ("train",), "val": ("val", "validation", "test")}
LAYOUTS = """\
  folder            root/train/CLASS/IMAGE.jpg and root/val/CLASS/IMAGE.jpg (or root/validation)
  tar               root/train.tar with CLASS/IMAGE.jpg inside, or root/train/*.tar, one per class or as shards; root/val likewise
  parquet           root/train-*.parquet or root/data/train-*.parquet; root/validation-* likewise (Hugging Face's names)
  timm:hfds/NAME    a data set of the package `datasets`, with root as its cache folder"""


def open_container(form: str, root: Path, split: str) -> Container:
    """The `train` or `val` half. What was opened stays open: a plan, a census and a task all ask. Raises
    RecipeError.
    """
    container = _open(form, root, split)
    if split != "train":
        _check_classes(container, _open(form, root, "train"), root)
    return container


@functools.lru_cache(maxsize=4)
def _open(form: str, root: Path, split: str) -> Container:
    if form.startswith("timm:"):
        return _through_timm(form.removeprefix("timm:"), root, split)
    if form not in ("auto", *_FINDERS):
        raise RecipeError(
            f"data.format={form}: not a layout known. Known layouts, found by themselves with "
            f"data.format=auto:\n{LAYOUTS}"
        )
    for name in _FINDERS if form == "auto" else (form,):
        for part in _SPLITS[split]:
            if container := _FINDERS[name](root, part):
                return container
    raise RecipeError(
        f"data.root={root}: no {split} photos in it, data.format={form}. Known layouts:\n{LAYOUTS}"
    )


def _folder(root: Path, part: str) -> Container | None:
    return Files(root / part) if _has(root / part, Path.is_dir) else None


def _tars(root: Path, part: str) -> Container | None:
    if (root / f"{part}.tar").is_file():
        return TarMembers([root / f"{part}.tar"])
    found = sorted((root / part).glob("*.tar")) or sorted(root.glob(f"{part}-*.tar"))
    return TarMembers(found) if found else None


def _parquets(root: Path, part: str) -> Container | None:
    found = [path for folder in (root, root / "data") for path in sorted(folder.glob(f"{part}*.parquet"))]
    found = found or sorted((root / part).glob("*.parquet"))
    return ParquetRows(found) if found else None


_FINDERS: dict[str, Callable[[Path, str], Container | None]] = {
    "tar": _tars,
    "parquet": _parquets,
    "folder": _folder,
}


def _has(folder: Path, kind: Callable[[Path], bool]) -> bool:
    return folder.is_dir() and any(kind(path) for path in folder.iterdir())


def _through_timm(name: str, root: Path, split: str) -> Container:
    if name.partition("/")[0] != "hfds":
        raise RecipeError(
            f"data.format=timm:{name}: only timm's hfds readers give samples in any order, which the sample "
            "stream needs (wds, tfds and "
            f"hfids are streams; folders and tar files are read without a prefix). Known layouts:\n{LAYOUTS}"
        )
    return Rows(name, root, "validation" if split == "val" else split)


def _check_classes(container: Container, train: Container, root: Path) -> None:
    """Gives the validation half the labels of the training half, where a class of either may have no images."""
    ours, theirs = container.classes, train.classes
    if ours is None or theirs is None or list(ours) == list(theirs):
        return
    if strangers := sorted(set(ours) - set(theirs)):
        raise RecipeError(
            f"data.root={root}: classes {_some(strangers)} are in val but have no images in train"
        )
    label_of = {name: label for label, name in enumerate(theirs)}
    container.labels = np.array([label_of[name] for name in ours], np.int64)[container.labels]
    container.classes = theirs


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def num_classes(container: Container) -> int:
    """By the names of the classes; where there are none, by the largest label."""
    return (
        len(container.classes) if container.classes is not None else int(container.labels.max(initial=-1)) + 1
    )
