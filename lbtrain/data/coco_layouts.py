"""data.root and data.train_files or data.validation_files -> the annotations and photos of each split of a
data set in COCO's format.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lbtrain.data.index import Note, natural_key, printable
from lbtrain.data.splits import SPLITS, VALIDATION_REMEDIES
from lbtrain.errors import RecipeError

_NOT_SPLIT = ("default", "")
"""In place of train where images are not split yet: CVAT's name, and none."""
LAYOUTS = """\
  COCO        root/annotations/instances_train2017.json, photos in root/train2017 or root/images/train2017;
              the same with another year or none, without instances_, or with the JSON file in root
  Roboflow    root/train/_annotations.coco.json, photos beside it
  FiftyOne    root/train/labels.json, photos in root/train/data
  not split   with data.validation_share=0.1: root/annotations/instances_default.json, photos in root/images
              (CVAT), root/_annotations.coco.json, or root/labels.json with root/data
"""
"""Each likewise for val, validation, valid or test in place of train."""


class CocoFiles(NamedTuple):
    """One split: its JSON file, the folder of its photos, and what was left out to choose them."""

    annotations: Path
    photos: Path
    notes: tuple[Note, ...] = ()


def coco_files(
    root: Path, split: str, named: Sequence[str] = (), *, whole: bool = False, word: str = ""
) -> CocoFiles:
    """The files of `split`, which is train or validation: those `named`, relative to `root`, or the only ones
    there in a known layout; `whole`: also in one without splits; `word`: of that name alone. Raises
    RecipeError.
    """
    if named:
        return _named(root, split, named)
    words = (word,) if word else SPLITS[split] + (_NOT_SPLIT if whole else ())
    places = {word: found for word in words if (found := list(_annotations(root, word)))}
    if not places:
        remedy = f" {VALIDATION_REMEDIES}" if split == "validation" and not word else ""
        raise RecipeError(
            f"data.root={root}: needs the {word or split} annotations in COCO's format. Known layouts:\n"
            f"{LAYOUTS}Name others with data.{split}_files=FILE.json,FOLDER.{remedy} The folder holds "
            f"{_content(root)}."
        )
    (word, found), *others = places.items()
    path = _only(root, split, found)
    photos = [folder for folder in _photos(root, path, word) if folder.is_dir()]
    if not photos:
        raise RecipeError(
            f"data.root={root}: no folder with the photos of {path}. Known layouts:\n{LAYOUTS}Name it with "
            f"data.{split}_files={path.relative_to(root)},FOLDER. The folder holds {_content(root)}."
        )
    names = tuple(other.name for _, paths in others for other in paths)
    left_out = Note(f"left out, other splits beside the {split} split", len(names), names[:3])
    return CocoFiles(path, _only(root, split, photos), (left_out,) if names else ())


def has_coco(root: Path, split: str = "train") -> bool:
    """Whether a folder holds the annotations of a split in one of the layouts."""
    return root.is_dir() and any(any(_annotations(root, word)) for word in SPLITS[split])


def _named(root: Path, split: str, named: Sequence[str]) -> CocoFiles:
    if len(named) != 2:
        raise RecipeError(
            f"data.{split}_files={','.join(named)}: it takes two paths, a JSON file and a folder of photos"
        )
    path, photos = (root / each for each in named)
    if not path.is_file() or not photos.is_dir():
        missing = f"no file {path}" if not path.is_file() else f"no folder {photos}"
        raise RecipeError(f"data.{split}_files={','.join(named)}: {missing}")
    return CocoFiles(path, photos)


def _annotations(root: Path, word: str) -> Iterator[Path]:
    """The JSON files that are of the split called `word`."""
    name = re.compile(rf"(instances_)?{re.escape(word)}(\d{{4}})?\.json")
    for folder in (root / "annotations", root):
        if folder.is_dir():
            yield from (path for path in sorted(folder.iterdir()) if name.fullmatch(path.name))
    for path in (root / word / "_annotations.coco.json", root / word / "labels.json"):
        if path.is_file():
            yield path


def _photos(root: Path, path: Path, word: str) -> Sequence[Path]:
    """The folders in which the photos of the JSON file at `path` may be."""
    if path.parent == root / word:
        return [path.parent / "data" if path.name == "labels.json" else path.parent]
    part = path.stem.removeprefix("instances_")
    of_split = {above / name: None for name in (part, word) for above in (root, root / "images")}
    return list(of_split) if any(folder.is_dir() for folder in of_split) else [root / "images"]


def _only(root: Path, split: str, found: Sequence[Path]) -> Path:
    """The one place that is found, by whatever links. Raises RecipeError where there are two."""
    if len({path.resolve() for path in found}) > 1:
        raise RecipeError(
            f"data.root={root}: the {split} split is there twice, {found[0]} and {found[1]}. Choose one with "
            f"data.{split}_files=FILE.json,FOLDER"
        )
    return found[0]


def _content(root: Path) -> str:
    names = sorted(os.listdir(root), key=natural_key)
    return ", ".join(map(printable, names[:5])) + (" and more" if len(names) > 5 else "") or "nothing"
