"""Instance segmentation in COCO's format: `root/annotations/instances_train2017.json` with `root/train2017/`,
and the same for val2017.

Crowds are left out of training and kept for scoring, as COCO's evaluation wants. A box to train on is cut at
the edge of its image, and where that leaves nothing of it, it goes with its mask and label; scoring takes
boxes as the file has them. Whatever cannot be read is an error with its file and id: of the half that is
scored at once, of outlines and photos to train on when their turn comes.
"""

import contextlib
import functools
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle

from lbtrain.data.index import SplitIndex, digests
from lbtrain.data.instances import Sample, not_empty
from lbtrain.errors import DataError, RecipeError


class CocoSource:
    """See `InstanceSource`. `empty_images`: whether images without objects (crowds aside) are among them;
    `scored`: whether it is the half that has a ground truth. Raises RecipeError where the files are not
    there, DataError where one of them is broken.
    """

    def __init__(self, root: Path, split: str, *, empty_images: bool, scored: bool = False):
        self.folder, self.path = root / split, root / "annotations" / f"instances_{split}.json"
        content = _read(self.path, self.folder)
        self.categories = {
            category["id"]: category["name"]
            for category in sorted(content["categories"], key=lambda each: each["id"])
        }
        self.class_names: Sequence[str] = list(self.categories.values())
        self._labels = {category: label for label, category in enumerate(self.categories, 1)}
        objects = self._by_image(content)
        images = [image for image in content["images"] if empty_images or objects[image["id"]]]
        self.sizes = np.array([[image["height"], image["width"]] for image in images], np.int64).reshape(
            -1, 2
        )
        self._records = _Records([(image, objects[image["id"]]) for image in images])
        self._truth = _Records([self._complete(content)] if scored else [])

    def _by_image(self, content: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
        """The objects of each image, without crowds and without boxes that hold nothing. Raises DataError for
        a broken annotation.
        """
        images = {image["id"] for image in content["images"]}
        objects, seen = defaultdict(list), set()
        for annotation in content["annotations"]:
            broken = _what_is_broken(annotation, images, self._labels)
            number = annotation.get("id") if isinstance(annotation, dict) else annotation
            if broken or number in seen:
                raise DataError(f"{self.path}: annotation {number}: {broken or 'its id is listed twice'}")
            seen.add(number)
            if not annotation.get("iscrowd", 0) and min(annotation["bbox"][2:]) > 0:
                objects[annotation["image_id"]].append(annotation)
        return objects

    def _complete(self, content: dict[str, Any]) -> dict[str, Any]:
        """With what pycocotools needs and a file may leave out, and all outlines as masks. Raises DataError
        for a broken one.
        """
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        annotations = []
        for annotation in content["annotations"]:
            with self._reading_outline(annotation):
                mask = _encoded(annotation["segmentation"], *sizes[annotation["image_id"]])
                annotations.append(
                    {
                        "iscrowd": 0,
                        "area": float(rle.area(mask)),
                        **annotation,
                        "segmentation": mask | {"counts": _text(mask["counts"])},
                    }
                )
        return content | {"annotations": annotations}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        image, objects = self._records[index]
        pixels = self._pixels(image)
        masks = np.zeros((len(objects), *pixels.shape[:2]), np.uint8)
        for number, annotation in enumerate(objects):
            with self._reading_outline(annotation):
                masks[number] = rle.decode(_encoded(annotation["segmentation"], *pixels.shape[:2]))
        labels = np.array([self._labels[annotation["category_id"]] for annotation in objects], np.int64)
        boxes = _corners([annotation["bbox"] for annotation in objects], *pixels.shape[:2])
        kept = not_empty(boxes)
        return Sample(image["id"], pixels, boxes[kept], labels[kept], masks[kept])

    def _pixels(self, image: dict[str, Any]) -> NDArray[np.uint8]:
        path = self.folder / image["file_name"]
        try:
            pixels = np.array(Image.open(path).convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: image {image['id']} cannot be read: {error}") from error
        if pixels.shape[:2] != (image["height"], image["width"]):
            stated = f"{image['height']} x {image['width']}"
            raise DataError(
                f"{path}: image {image['id']} has {pixels.shape[0]} x {pixels.shape[1]} pixels, {self.path} "
                f"says {stated}"
            )
        return pixels

    @contextlib.contextmanager
    def _reading_outline(self, annotation: dict[str, Any]) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # pycocotools raises a bare Exception for what it does not know.
            raise DataError(
                f"{self.path}: annotation {annotation['id']}: its segmentation cannot be read: {error}"
            ) from error

    def raw(self, index: int) -> tuple[dict[str, Any], list[tuple[dict[str, Any], int]]]:
        """An image and its (annotation, label) pairs as the file has them, crowds left out."""
        image, objects = self._records[index]
        return image, [(annotation, self._labels[annotation["category_id"]]) for annotation in objects]

    @functools.cached_property
    def index(self) -> SplitIndex:
        parts = digests(
            categories=self.categories, images=self._records.bytes.numpy(), sizes=self._file_sizes()
        )
        return SplitIndex(len(self), len(self.class_names), self.class_names, parts)

    def _file_sizes(self) -> NDArray[np.int64]:
        """Of the photos in bytes; -1 for one that is not there, which is named when its turn comes."""
        names = (self._records[index][0]["file_name"] for index in range(len(self)))
        paths = [self.folder / name for name in names]
        return np.array([path.stat().st_size if path.is_file() else -1 for path in paths], np.int64)

    def image_id(self, index: int) -> int:
        return int(self._records[index][0]["id"])

    def category_id(self, label: int) -> int:
        return int(list(self.categories)[label - 1])

    def ground_truth(self) -> dict[str, Any]:
        return dict(self._truth[0])


class _Records:
    """What JSON can say, as text, one after the other in a tensor: loader processes share it, where each
    would copy objects.
    """

    def __init__(self, records: Sequence[Any]):
        texts = [json.dumps(record).encode() for record in records]
        self.bytes = torch.from_numpy(np.frombuffer(bytearray().join(texts), np.uint8))
        self._ends = torch.tensor([len(text) for text in texts], dtype=torch.int64).cumsum(0)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        start = int(self._ends[index - 1]) if index else 0
        return json.loads(self.bytes[start : int(self._ends[index])].numpy().tobytes())


def _corners(boxes: list[list[float]], height: int, width: int) -> NDArray[np.float32]:
    """Left, top, right, bottom of what of the boxes lies on the image, shape (n, 4)."""
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners.clip(0, [width, height, width, height]).astype(np.float32)


def _read(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file() or not folder.is_dir():
        raise RecipeError(f"data.root={path.parents[1]}: needs {path} and the images in {folder}")
    try:
        content = json.loads(path.read_text())
        missing = [
            name
            for name in ("images", "annotations", "categories")
            if not isinstance(content.get(name), list)
        ]
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} is not COCO's JSON: {error}") from error
    if missing:
        raise DataError(f"{path} is not COCO's JSON: no list {' or '.join(missing)}")
    for kind, records, is_whole, needs in (
        ("image", content["images"], _is_image, "file_name, height and width"),
        ("category", content["categories"], _is_category, "name"),
    ):
        seen: set[int] = set()
        for record in records:
            number = record.get("id") if isinstance(record, dict) else record
            if not (isinstance(record, dict) and isinstance(number, int) and is_whole(record)):
                raise DataError(f"{path}: {kind} {number}: needs a whole number as id, {needs}")
            if number in seen:
                raise DataError(f"{path}: {kind} {number} is listed twice")
            seen.add(number)
    return dict(content)


def _is_image(record: dict[str, Any]) -> bool:
    sides = (record.get("height"), record.get("width"))
    return isinstance(record.get("file_name"), str) and all(
        isinstance(side, int) and side > 0 for side in sides
    )


def _is_category(record: dict[str, Any]) -> bool:
    return isinstance(record.get("name"), str)


def _encoded(outline: Any, height: int, width: int) -> dict[str, Any]:
    """An outline (polygons or runs) as a run-length mask. Raises what pycocotools raises, and ValueError for
    a mask of another size.
    """
    if isinstance(outline, list):
        return dict(rle.merge(rle.frPyObjects(outline, height, width)))
    mask = rle.frPyObjects(outline, height, width) if isinstance(outline["counts"], list) else outline
    if tuple(mask["size"]) != (height, width):
        raise ValueError(f"a mask of {mask['size']} pixels on an image of {[height, width]}")
    return dict(mask)


def _text(counts: str | bytes) -> str:
    """Runs as COCO's files have them; pycocotools takes both."""
    return counts if isinstance(counts, str) else counts.decode("ascii")


def _what_is_broken(annotation: Any, images: set[int], labels: dict[int, int]) -> str:
    if not isinstance(annotation, dict):
        return "is no object with names and values"
    missing = {"id", "image_id", "category_id", "bbox", "segmentation"} - set(annotation)
    if missing:
        return f"no {', '.join(sorted(missing))}"
    unlike = [name for name in ("id", "image_id", "category_id") if not isinstance(annotation[name], int)]
    if unlike:
        return f"{unlike[0]} {annotation[unlike[0]]} is no whole number"
    if annotation["image_id"] not in images:
        return f"image_id {annotation['image_id']} is not among the images"
    if annotation["category_id"] not in labels:
        return f"category_id {annotation['category_id']} is not among the categories"
    box = annotation["bbox"]
    if not (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(side, int | float) and math.isfinite(side) for side in box)
    ):
        return f"bbox {box} is not [left, top, width, height]"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd {annotation['iscrowd']} is neither 0 nor 1"
    if not isinstance(annotation.get("area", 0), int | float):
        return f"area {annotation['area']} is no number"
    return ""
