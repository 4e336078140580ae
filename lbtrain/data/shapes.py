"""Drawn shapes with exact masks, made on the fly: the data set that detection runs on where there is no
other.

Each image is a pure function of its number: up to five discs, squares, triangles and rings of any colour,
size and tilt, one over the other, on a background of two colours and noise. A mask is the part of a shape
that can be seen. About one image in twelve is empty.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from lbtrain.data.index import SplitIndex, digests
from lbtrain.data.instances import Sample

CLASS_NAMES = ("disc", "square", "triangle", "ring")
_SMALLEST_AREA = 40


class ShapesSource:
    """See `InstanceSource`. `first`: number of the first image, so that training and evaluation have none in
    common.
    """

    class_names: Sequence[str] = CLASS_NAMES
    without_outline = ""

    def __init__(self, num_images: int, image_size: int, *, first: int):
        self.first, self.image_size = first, image_size
        self.sizes = np.full((num_images, 2), image_size, np.int64)
        self.index = SplitIndex(
            num_images, len(CLASS_NAMES), CLASS_NAMES, digests(first=first, sizes=self.sizes)
        )

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Sample:
        return draw(self.first + index, self.image_size)

    def image_id(self, index: int) -> int:
        return self.first + index

    def category_id(self, label: int) -> int:
        return label

    def ground_truth(self) -> dict[str, Any]:
        samples = [self[index] for index in range(len(self))]
        size = {"height": self.image_size, "width": self.image_size}
        annotations = [annotation for sample in samples for annotation in _annotations(sample)]
        return {
            "images": [{"id": sample.image_id, **size} for sample in samples],
            "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)],
            "categories": [{"id": label, "name": name} for label, name in enumerate(CLASS_NAMES, 1)],
        }


def _annotations(sample: Sample) -> list[dict[str, Any]]:
    return [
        {
            "image_id": sample.image_id,
            "category_id": int(label),
            "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": rle.encode(np.asfortranarray(mask)),
        }
        for box, label, mask in zip(sample.boxes, sample.labels, sample.masks, strict=True)
    ]


def draw(number: int, size: int) -> Sample:
    """Image `number`, with `size` pixels a side."""
    random = np.random.default_rng([7, number, size])
    rows, columns = np.mgrid[:size, :size] + 0.5
    slope = (rows * random.uniform(-1, 1) + columns * random.uniform(-1, 1)) / size
    pixels = random.uniform(40, 215, 3) + slope[..., None] * random.uniform(-60, 60, 3)
    labels, masks = [], np.zeros((0, size, size), bool)
    for _ in range(random.choice(6, p=[0.08, 0.14, 0.22, 0.24, 0.2, 0.12])):
        label = int(random.integers(len(CLASS_NAMES)))
        inside = _inside(label, rows, columns, random)
        pixels[inside] = random.uniform(0, 255, 3)
        labels.append(label + 1)
        masks = np.concatenate([masks & ~inside, inside[None]])
    pixels = np.clip(pixels + random.normal(0, 10, pixels.shape), 0, 255).astype(np.uint8)
    seen = masks.sum((1, 2)) >= _SMALLEST_AREA
    masks = masks[seen].astype(np.uint8)
    return Sample(number, pixels, _boxes(masks), np.array(labels, np.int64)[seen], lambda: masks)


def _inside(
    label: int, rows: NDArray[Any], columns: NDArray[Any], random: np.random.Generator
) -> NDArray[np.bool_]:
    """The pixels whose centres lie in a shape of that class, of random place, size and tilt."""
    size = len(rows)
    radius = random.uniform(0.08, 0.24) * size
    top, left = random.uniform(radius / 2, size - radius / 2, 2)
    tilt = random.uniform(0, 2 * np.pi)
    down = (rows - top) * np.cos(tilt) - (columns - left) * np.sin(tilt)
    right = (rows - top) * np.sin(tilt) + (columns - left) * np.cos(tilt)
    distance = np.hypot(down, right)
    if CLASS_NAMES[label] == "square":
        return np.asarray(np.maximum(abs(down), abs(right)) < 0.85 * radius)
    if CLASS_NAMES[label] == "triangle":
        return np.asarray((down < 0.6 * radius) & (down + 0.6 * radius > abs(right) * 3**0.5 - 0.6 * radius))
    if CLASS_NAMES[label] == "ring":
        return np.asarray((distance < radius) & (distance > 0.55 * radius))
    return np.asarray(distance < radius)


def _boxes(masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The tight box of each mask, shape (n, 4)."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for number, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
