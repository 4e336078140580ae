"""COCO's JSON, read and checked whole before the first step: every image, category and annotation, wherever
it stands in its list, and named by its id.

What files of other tools do differently is read as COCO means it: a byte order mark, whole numbers written as
40.0, an `iscrowd` that is null or missing, a missing `area`.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lbtrain.data.coco_layouts import CocoFiles
from lbtrain.data.index import Note, Notes, each_name_once
from lbtrain.data.outlines import are_coordinates, check_outline
from lbtrain.data.progress import Progress
from lbtrain.errors import DataError

Record = dict[str, Any]
Content = dict[str, list[Record]]
_LISTS = ("images", "annotations", "categories")
_LARGEST_ID = 2**53
_NEEDED = frozenset({"id", "image_id", "category_id", "bbox"})


class Annotations(NamedTuple):
    """One split: its files, its images, annotations and categories, and what was noted while it was read."""

    files: CocoFiles
    content: Content
    notes: tuple[Note, ...]


def read_annotations(files: CocoFiles) -> Annotations:
    """All records whole. Raises DataError for the first one that is broken."""
    path, notes = files.annotations, Notes()
    content = _parsed(path)
    images = _by_id(path, "image", content["images"], _image)
    categories = _by_id(path, "category", content["categories"], _category)
    progress = Progress(f"checking {path}", len(content["annotations"]))

    def whole(record: Record) -> Record:
        progress.add(1)
        return _annotation(record, images, categories, notes)

    annotations = _by_id(path, "annotation", content["annotations"], whole)
    _note_repeated("categories of one name, which stay apart", categories.values(), "name", notes)
    _note_repeated("photos under two ids, which both count", images.values(), "file_name", notes)
    whole_lists = {
        "images": list(images.values()),
        "annotations": list(annotations.values()),
        "categories": list(categories.values()),
    }
    return Annotations(files, content | whole_lists, files.notes + notes.collected())


def _note_repeated(what: str, records: Iterable[Record], name: str, notes: Notes) -> None:
    for value, count in Counter(record[name] for record in records).items():
        if count > 1:
            notes.add(what, value)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=each_name_once)
    except RecursionError as error:
        raise DataError(f"{path} is not COCO's JSON: lists or objects are nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{path} is not COCO's JSON: {error}") from error
    missing = [
        name for name in _LISTS if not isinstance(content, dict) or not isinstance(content.get(name), list)
    ]
    if missing:
        raise DataError(f"{path} is not COCO's JSON: no list {' or '.join(missing)}")
    return dict(content)


def _by_id(path: Path, kind: str, records: list[Any], whole: Callable[[Record], Record]) -> dict[int, Record]:
    """The records by their ids. Raises DataError for one that `whole` raises ValueError for, or an id that
    comes twice.
    """
    found: dict[int, Record] = {}
    for record in records:
        number = record.get("id") if isinstance(record, dict) else record
        try:
            if not isinstance(record, dict):
                raise ValueError("is not an object with names and values")
            each = whole(record)
        except (ValueError, OverflowError) as error:
            raise DataError(f"{path}: {kind} {number}: {error}") from error
        if each["id"] in found:
            raise DataError(f"{path}: {kind} {each['id']}: its id is listed twice")
        found[each["id"]] = each
    return found


def _whole(record: Record, name: str) -> int:
    """A whole number, also as 40.0. Raises ValueError."""
    value = record.get(name)
    if type(value) is int and -_LARGEST_ID < value < _LARGEST_ID:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST_ID:
        raise ValueError(f"{name} {value!r} is not a whole number")
    if value != int(value):
        raise ValueError(f"{name} {value!r} is not a whole number")
    return int(value)


def _image(record: Record) -> Record:
    sides = {name: _whole(record, name) for name in ("id", "height", "width")}
    name = record.get("file_name")
    if not isinstance(name, str):
        raise ValueError("no file_name")
    if not _is_path(name):
        raise ValueError(f"file_name {name!r} is not the name of a file")
    if min(sides["height"], sides["width"]) <= 0:
        raise ValueError(f"height {sides['height']} and width {sides['width']} must be positive")
    return record | sides


def _is_path(name: str) -> bool:
    """Whether the system can be asked for it."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def _category(record: Record) -> Record:
    if not isinstance(record.get("name"), str):
        raise ValueError("no name")
    return record | {"id": _whole(record, "id")}


def _annotation(
    record: Record, images: dict[int, Record], categories: dict[int, Record], notes: Notes
) -> Record:
    missing = _NEEDED.difference(record)
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))}")
    number, image_id = _whole(record, "id"), _whole(record, "image_id")
    category_id = _whole(record, "category_id")
    if image_id not in images:
        raise ValueError(f"image_id {image_id} is not among the images")
    if category_id not in categories:
        raise ValueError(f"category_id {category_id} is not among the categories")
    crowd, area = record.get("iscrowd"), record.get("area", 0)
    if crowd is not None and crowd not in (0, 1):
        raise ValueError(f"iscrowd {crowd!r} is neither 0 nor 1")
    if area is not None and not (_is_number(area) and area >= 0):
        raise ValueError(f"area {area!r} is not a finite number of pixels")
    image = images[image_id]
    _note_box(record["bbox"], image, notes, number)
    if record.get("segmentation") not in (None, []):
        _note_outline(record["segmentation"], image, notes, number)
    else:
        notes.add("without a segmentation, whose box stands for it", f"annotation {number}")
        record["segmentation"] = [_rectangle(*record["bbox"])]
        record["is_box"] = True
    record.update(id=number, image_id=image_id, category_id=category_id, iscrowd=int(crowd or 0))
    if area is None:
        del record["area"]
    return record


def _note_outline(outline: Any, image: Record, notes: Notes, number: int) -> None:
    """Raises ValueError for what is no outline on this image."""
    try:
        check_outline(outline, image["height"], image["width"])
    except ValueError as error:
        raise ValueError(f"its segmentation cannot be read: {error}") from error
    if isinstance(outline, list) and min(map(len, outline)) < 6:
        notes.add("with polygons of fewer than three points, which are left out", f"annotation {number}")


def _rectangle(left: float, top: float, width: float, height: float) -> list[float]:
    """As a polygon."""
    right, bottom = left + width, top + height
    return [left, top, right, top, right, bottom, left, bottom]


def holds_pixels(box: list[float], image: Record) -> bool:
    """Whether a box has an area on its image."""
    left, top, width, height = box
    return 0 < width > -left and left < image["width"] and 0 < height > -top and top < image["height"]


def _note_box(box: Any, image: Record, notes: Notes, number: int) -> None:
    """Raises ValueError for what is no box."""
    if not (isinstance(box, list) and len(box) == 4 and are_coordinates(box)):
        raise ValueError(f"bbox {box} is not [left, top, width, height] in pixels")
    left, top, width, height = box
    if not holds_pixels(box, image):
        notes.add("left out of training, boxes without an area on their image", f"annotation {number}")
    elif left < -1 or top < -1 or left + width > image["width"] + 1 or top + height > image["height"] + 1:
        notes.add("cut at the edge, boxes that reach beyond their image", f"annotation {number}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
