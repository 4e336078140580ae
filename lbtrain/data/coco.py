"""Instance segmentation in COCO's format: `root/annotations/instances_train2017.json` with `root/train2017/`, and the same for val2017.

Crowds are left out of training and kept for scoring, as COCO's evaluation wants. Whatever cannot be read is an error with its file and id.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle

from lbtrain.data.instances import Sample
from lbtrain.errors import RecipeError, UserError


class CocoSource:
    """See `InstanceSource`. `empty_images`: whether images without objects (crowds aside) are among them."""

    def __init__(self, root: Path, split: str, *, empty_images: bool):
        self.folder, self.path = root / split, root / "annotations" / f"instances_{split}.json"
        self._content = _read(self.path, self.folder)
        categories = sorted(self._content["categories"], key=lambda category: category["id"])
        self.class_names: Sequence[str] = [category["name"] for category in categories]
        self._category_ids = [category["id"] for category in categories]
        self._labels = {category: label for label, category in enumerate(self._category_ids, 1)}
        self._objects = self._by_image()
        self._images = [image for image in self._content["images"] if empty_images or self._objects[image["id"]]]
        self.sizes = np.array([[image["height"], image["width"]] for image in self._images], np.int64).reshape(-1, 2)

    def _by_image(self) -> dict[int, list[dict[str, Any]]]:
        """The objects of each image, without crowds and without boxes that hold nothing. Raises UserError for a broken annotation."""
        images = {image["id"] for image in self._content["images"]}
        objects = defaultdict(list)
        for annotation in self._content["annotations"]:
            broken = _what_is_broken(annotation, images, self._labels)
            if broken:
                raise UserError(f"{self.path}: annotation {annotation.get('id')}: {broken}")
            if not annotation.get("iscrowd", 0) and min(annotation["bbox"][2:]) > 0:
                objects[annotation["image_id"]].append(annotation)
        return objects

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        image = self._images[index]
        pixels = self._pixels(image)
        objects = self._objects[image["id"]]
        masks = np.zeros((len(objects), *pixels.shape[:2]), np.uint8)
        for number, annotation in enumerate(objects):
            masks[number] = self._mask(annotation, *pixels.shape[:2])
        boxes = np.array([annotation["bbox"] for annotation in objects], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([self._labels[annotation["category_id"]] for annotation in objects], np.int64)
        return Sample(image["id"], pixels, boxes, labels, masks)

    def _pixels(self, image: dict[str, Any]) -> NDArray[np.uint8]:
        path = self.folder / image["file_name"]
        try:
            pixels = np.array(Image.open(path).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path}: image {image['id']} cannot be read: {error}") from error
        if pixels.shape[:2] != (image["height"], image["width"]):
            stated = f"{image['height']} x {image['width']}"
            raise UserError(f"{path}: image {image['id']} has {pixels.shape[0]} x {pixels.shape[1]} pixels, {self.path} says {stated}")
        return pixels

    def _mask(self, annotation: dict[str, Any], height: int, width: int) -> NDArray[np.uint8]:
        outline = annotation["segmentation"]
        try:
            if isinstance(outline, list):
                encoded = rle.merge(rle.frPyObjects(outline, height, width))
            else:
                encoded = rle.frPyObjects(outline, height, width) if isinstance(outline["counts"], list) else outline
            return np.asarray(rle.decode(encoded), np.uint8)
        except Exception as error:
            # pycocotools raises a bare Exception for what it does not know.
            raise UserError(f"{self.path}: annotation {annotation['id']}: its segmentation cannot be read: {error}") from error

    def raw(self, index: int) -> tuple[dict[str, Any], list[tuple[dict[str, Any], int]]]:
        """An image and its (annotation, label) pairs as the file has them, crowds left out."""
        image = self._images[index]
        return image, [(annotation, self._labels[annotation["category_id"]]) for annotation in self._objects[image["id"]]]

    def image_id(self, index: int) -> int:
        return int(self._images[index]["id"])

    def category_id(self, label: int) -> int:
        return int(self._category_ids[label - 1])

    def ground_truth(self) -> dict[str, Any]:
        return self._content


def _read(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file() or not folder.is_dir():
        raise RecipeError(f"data.root={path.parents[1]}: needs {path} and the images in {folder}")
    try:
        content = json.loads(path.read_text())
        missing = [name for name in ("images", "annotations", "categories") if not isinstance(content.get(name), list)]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is not COCO's JSON: {error}") from error
    if missing:
        raise UserError(f"{path} is not COCO's JSON: no list {' or '.join(missing)}")
    for image in content["images"]:
        if not {"id", "file_name", "height", "width"} <= set(image):
            raise UserError(f"{path}: image {image.get('id')}: needs id, file_name, height and width")
    return dict(content)


def _what_is_broken(annotation: dict[str, Any], images: set[int], labels: dict[int, int]) -> str:
    missing = {"id", "image_id", "category_id", "bbox", "segmentation"} - set(annotation)
    if missing:
        return f"no {', '.join(sorted(missing))}"
    if annotation["image_id"] not in images:
        return f"image_id {annotation['image_id']} is not among the images"
    if annotation["category_id"] not in labels:
        return f"category_id {annotation['category_id']} is not among the categories"
    box = annotation["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) and np.isfinite(side) for side in box)):
        return f"bbox {box} is not [left, top, width, height]"
    return ""
