"""Objects with outlines, or with boxes alone, in COCO's format: a JSON file and a folder of photos
(lbtrain.data.coco_layouts).

Every annotation is checked before the first step (lbtrain.data.annotations). Crowds are left out of training
and kept for scoring, as COCO's evaluation wants. A box to train on is cut at the edge of its image, and where
that leaves nothing of it, it goes with its mask and label. So does an object whose mask has no pixel, where
masks are learned (lbtrain.data.instances). Scoring takes annotations as the file has them. Photos are turned
as their EXIF orientation says, as detectron2 turns them, and must then have the size that the file states.
"""

import copy
import functools
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as rle

from lbtrain.data.annotations import Annotations, Content, Record, holds_pixels
from lbtrain.data.coco_photos import checked_photos
from lbtrain.data.decode import MAX_PIXELS, BrokenImage, opened, rgb, upright
from lbtrain.data.index import Notes, SplitIndex, digests, sampled
from lbtrain.data.instances import Sample, not_empty
from lbtrain.data.outlines import encoded, holds_pixel, mask_of, touches_image
from lbtrain.errors import DataError, RecipeError, naming_the_shortage


class CocoSource:
    """See `InstanceSource`. `empty_images`: whether images without objects (crowds aside) are among them;
    `scored`: whether it is the split that has a ground truth. Raises RecipeError where there is
    nothing to train on or to score, DataError where a file is broken.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        empty_images: bool,
        scored: bool = False,
        max_pixels: int = MAX_PIXELS,
    ):
        self.files, content, noted = annotations
        self.path, self.folder = self.files.annotations, self.files.photos
        self.scored, self.max_pixels, notes = scored, max_pixels, Notes()
        self.categories = {
            category["id"]: category["name"]
            for category in sorted(content["categories"], key=lambda each: each["id"])
        }
        self.class_names: Sequence[str] = list(self.categories.values())
        self._labels = {category: label for label, category in enumerate(self.categories, 1)}
        objects = _by_image(content, notes)
        images = [image for image in content["images"] if empty_images or objects[image["id"]]]
        self._check_not_empty(images, objects, scored)
        for image in content["images"]:
            if not empty_images and not objects[image["id"]]:
                notes.add("left out, images without objects (crowds aside)", image["file_name"])
        self._notes = noted + notes.collected()
        self.sizes = np.array([[image["height"], image["width"]] for image in images], np.int64).reshape(
            -1, 2
        )
        self._records = _Records([(image, objects[image["id"]]) for image in images])
        self._truth = _Records([_complete(content)] if scored else [])
        boxes = (each["id"] for each in content["annotations"] if "is_box" in each)
        self.without_outline = next((f"{self.path}: annotation {number}" for number in boxes), "")

    def _check_not_empty(self, images: list[Record], objects: dict[int, list[Record]], scored: bool) -> None:
        if scored and not any(objects.values()):
            raise RecipeError(
                f"{self.path}: no object to find in any validation image (crowds aside), and average "
                "precision is not defined without one. Score on images with objects"
            )
        if not images:
            raise RecipeError(
                f"{self.path}: no image with an object to train on (crowds aside). Annotate some, or train "
                "on images without objects: data.empty_images=true"
            )

    def without_images(self) -> "CocoSource":
        """The same categories and no image: what a run without validation is scored on."""
        other = copy.copy(self)
        other._records, other.sizes, other._notes = _Records([]), self.sizes[:0], ()
        return other

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        image, objects = self._records[index]
        pixels = self._pixels(image)
        size = pixels.shape[:2]
        labels = np.array([self._labels[annotation["category_id"]] for annotation in objects], np.int64)
        boxes = _corners([annotation["bbox"] for annotation in objects], *size)
        kept = not_empty(boxes)

        def masks() -> NDArray[np.uint8]:
            outlines = (objects[number]["segmentation"] for number in np.flatnonzero(kept))
            made = [mask_of(encoded(outline, *size), *size) for outline in outlines]
            return np.array(made, np.uint8).reshape(-1, *size)

        return Sample(image["id"], pixels, boxes[kept], labels[kept], masks)

    def _pixels(self, image: Record) -> NDArray[np.uint8]:
        path = self.folder / image["file_name"]
        try:
            with naming_the_shortage():
                data = path.read_bytes()
            stored = opened(data, self.max_pixels)
            pixels = rgb(upright(stored))
        except (BrokenImage, OSError, ValueError) as error:
            raise DataError(f"{path}: image {image['id']} cannot be read: {error}") from error
        if pixels.shape[:2] != (image["height"], image["width"]):
            turned = pixels.shape[:2] != stored.size[::-1]
            raise DataError(
                f"{path}: image {image['id']} has {pixels.shape[0]} x {pixels.shape[1]} pixels"
                f"{' when turned as its EXIF orientation says' if turned else ''}, {self.path} says "
                f"{image['height']} x {image['width']}"
            )
        return pixels

    def check_format(self, path: str) -> None:
        """Raises OSError for a photo in a format that is not read, or of more than `max_pixels`."""
        try:
            opened(Path(path).read_bytes(), self.max_pixels)
        except BrokenImage as error:
            raise OSError(str(error)) from error

    def raw(self, index: int) -> tuple[dict[str, Any], list[tuple[dict[str, Any], int]]]:
        """An image and its (annotation, label) pairs as the file has them, crowds left out."""
        image, objects = self._records[index]
        return image, [(annotation, self._labels[annotation["category_id"]]) for annotation in objects]

    @functools.cached_property
    def index(self) -> SplitIndex:
        images = [self._records[index][0] for index in range(len(self))]
        split = "validation" if self.scored else "train"
        sizes = checked_photos(self.files, split, images, self.max_pixels)

        def read(number: int) -> bytes:
            return (self.folder / images[number]["file_name"]).read_bytes()

        parts = digests(
            categories=self.categories,
            images=self._records.bytes.numpy(),
            sizes=sizes,
            bytes=sampled(sizes, read),
        )
        return SplitIndex(len(self), len(self.class_names), self.class_names, parts, self._notes)

    def image_id(self, index: int) -> int:
        return int(self._records[index][0]["id"])

    def category_id(self, label: int) -> int:
        return int(list(self.categories)[label - 1])

    def ground_truth(self) -> dict[str, Any]:
        return dict(self._truth[0])


_THIN = 0.01
"""Pixels. float32 has finer steps than that up to the farthest coordinate that an annotation may have."""


class _Records:
    """What JSON can say, as text, one after the other in a tensor: loader processes share it, where each
    would copy objects.
    """

    def __init__(self, records: Sequence[Any]):
        encode = json.JSONEncoder(check_circular=False).encode  # what was read from JSON holds no circle
        texts = [encode(record).encode() for record in records]
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


def _by_image(content: Content, notes: Notes) -> dict[int, list[Record]]:
    """The objects of each image, without crowds and without those whose box or outline misses it. Those that
    a source or a model leaves out further on have a note too.
    """
    objects: dict[int, list[Record]] = defaultdict(list)
    images = {image["id"]: image for image in content["images"]}
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        if annotation["iscrowd"] or not holds_pixels(annotation["bbox"], image):
            continue
        if touches_image(annotation["segmentation"], image["height"], image["width"]):
            objects[image["id"]].append(annotation)
            what = _too_thin(annotation, image["height"], image["width"])
        else:
            what = "left out of training, outlines without an area on their image"
        if what:
            notes.add(what, f"annotation {annotation['id']}")
    return objects


def _too_thin(annotation: Record, height: int, width: int) -> str:
    """What becomes of an object of which little lies on its image; empty if it stays."""
    left, top, across, down = annotation["bbox"]
    seen = min(left + across, width) - max(left, 0), min(top + down, height) - max(top, 0)
    if min(seen) < _THIN and not not_empty(_corners([annotation["bbox"]], height, width)).all():
        return "left out of training, boxes too thin for float32"
    if "is_box" not in annotation and not holds_pixel(annotation["segmentation"], height, width):
        return "left out where masks are learned, outlines without a pixel"
    return ""


def _complete(content: Content) -> Content:
    """With what pycocotools needs and a file may leave out, and all outlines as masks."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    annotations = []
    for annotation in content["annotations"]:
        mask = encoded(annotation["segmentation"], *sizes[annotation["image_id"]])
        outline = mask | {"counts": _text(mask["counts"])}
        annotations.append({"area": float(rle.area(mask)), **annotation, "segmentation": outline})
    return content | {"annotations": annotations}


def _text(counts: str | bytes) -> str:
    """Runs as COCO's files have them; pycocotools takes both."""
    return counts if isinstance(counts, str) else counts.decode("ascii")
