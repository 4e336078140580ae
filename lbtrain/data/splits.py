"""Changes to what a layout has: a validation split held out of the training images, elsewhere or left out,
and classes numbered by a list or a map of the user's.
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbtrain.data.containers import Container, Part, renumbered
from lbtrain.data.index import Note, Notes, composed, each_name_once
from lbtrain.errors import RecipeError

SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid", "test")}
"""The names that folders and files of a split have; of several the first counts."""
NO_VALIDATION = "none"
VALIDATION_REMEDIES = (
    "Hold some training images out with data.validation_share=0.1, name another folder with "
    f"data.validation_root=FOLDER, or train without validation: data.validation_root={NO_VALIDATION}."
)


def check_share(root: Path, share: float, validation_root: str, own: object) -> None:
    """Raises RecipeError for a share to hold out where there is a validation split: `own`, which the data set
    has, or one that is elsewhere.
    """
    if share and (own or validation_root):
        place = (
            f"data.validation_root={validation_root}" if validation_root else f"{root} has a validation split"
        )
        raise RecipeError(f"data.validation_share={share:g}, but {place}: use one of the two")


def held_out(
    names: NDArray[np.bytes_], labels: NDArray[np.int64], share: float
) -> tuple[NDArray[np.bool_], tuple[Note, ...]]:
    """Which of the images are held out, and a note that says so: of each class `share` of them, rounded, at
    least one where there are two, and never all. Which ones follows from the hash of their names, so that the
    split is the same on every machine, for every seed of a run, and changes little when images are added.
    Raises RecipeError where no class has two images.
    """
    order = np.argsort([hashlib.sha256(name).digest() for name in names.tolist()], kind="stable")
    chosen, notes = np.zeros(len(names), bool), Notes()
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[by_class], prepend=-1))
    for members in np.split(by_class, starts)[1:]:
        chosen[members[: min(len(members) - 1, max(1, round(share * len(members))))]] = True
    if not chosen.any():
        raise RecipeError(
            f"data.validation_share={share:g}: no class has two images, so none can be held out. Train "
            f"without validation: data.validation_root={NO_VALIDATION}"
        )
    for name in names[chosen].tolist():
        notes.add(f"held out of the training images, data.validation_share={share:g}", os.fsdecode(name))
    return chosen, notes.collected()


def hold_out(whole: Container, share: float) -> tuple[Part, Part]:
    """(training, validation), see `held_out`."""
    chosen, notes = held_out(whole.names, whole.labels, share)
    validation = Part(whole, np.flatnonzero(chosen))
    validation.notes = notes
    return Part(whole, np.flatnonzero(~chosen)), validation


def read_classes(path: Path) -> dict[str, int]:
    """Class name -> number, from a list (a name per line, numbered from 0) or a map (JSON, {"name": number}).
    Raises RecipeError.
    """
    try:
        text = path.read_text("utf-8-sig")
        found = json.loads(text, object_pairs_hook=_mapped) if path.suffix == ".json" else _listed(text)
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"data.classes={path}: cannot be read ({error})") from error
    numbers = found.values() if isinstance(found, dict) else ()
    if not numbers or not all(type(number) is int and 0 <= number < 10**6 for number in numbers):
        raise RecipeError(
            f"data.classes={path}: expected one class name per line, or a JSON file such as "
            f'{{"cat": 0, "dog": 1}}'
        )
    return found


def _mapped(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return each_name_once([(composed(name), value) for name, value in pairs])


def _listed(text: str) -> dict[str, int]:
    names = [composed(line.strip()) for line in text.splitlines() if line.strip()]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"{twice[0]} is listed twice")
    return {name: number for number, name in enumerate(names)}


def with_classes(whole: Container, numbers: dict[str, int], path: Path) -> Container:
    """The images of the classes in `numbers`, numbered so; other classes are left out and counted. Several
    names of one number are one class. Raises RecipeError where none is left, or classes have no names.
    """
    notes, names_of = Notes(), Counter(numbers.values())
    if whole.classes is None:
        raise RecipeError(
            f"data.classes={path}: the classes of this data set are numbers, without names to look up"
        )
    for name in whole.classes:
        if name not in numbers:
            notes.add(f"left out, classes that are not in {path.name}", name)
        elif names_of[numbers[name]] > 1:
            notes.add(f"classes merged by {path.name}", name)
    left_out = [label for label, name in enumerate(whole.classes) if name not in numbers]
    kept = np.flatnonzero(~np.isin(whole.labels, left_out))
    if not len(kept):
        raise RecipeError(
            f"data.classes={path}: none of its classes has images; there are {', '.join(whole.classes[:3])}"
        )
    table = np.array([numbers.get(name, -1) for name in whole.classes], np.int64)
    labels = renumbered(whole.labels[kept], table)
    return Part(whole, kept, labels=labels, classes=_names(numbers), notes=notes.collected())


def _names(numbers: dict[str, int]) -> list[str]:
    """Of each number, the names that have it."""
    by_number: dict[int, list[str]] = {}
    for name, number in numbers.items():
        by_number.setdefault(number, []).append(name)
    return ["+".join(by_number.get(number, [f"({number})"])) for number in range(max(by_number) + 1)]
