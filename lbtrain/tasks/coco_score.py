"""Box and mask AP of the detections of all ranks, by pycocotools: exact, since rank 0 scores them all at
once.
"""

import contextlib
import copy
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

Found = dict[str, Any]
"""One object in COCO's result format: image_id, category_id, bbox (left, top, width, height), score,
segmentation (compressed RLE).
"""
Outlines = list[dict[str, Any]]
"""Compressed RLE of the objects of an image."""
_COCO_KINDS = {"mask": "segm", "box": "bbox"}

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
TWELVE_NAMES = (*NAMES, "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
"""Of COCO's twelve numbers, in its order: average precision, then average recall."""


def as_detections(
    image_id: int, category_ids: list[int], boxes: Tensor, scores: Tensor, outlines: Outlines
) -> list[Found]:
    """boxes: (n, 4), left, top, right, bottom, in pixels of the original image."""
    corners = _from_corners(boxes).tolist()
    return [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score, "segmentation": outline}
        for category, box, score, outline in zip(
            category_ids, corners, scores.double().tolist(), outlines, strict=True
        )
    ]


def outlines_of(result: dict[str, Tensor], size: tuple[int, int]) -> Outlines:
    """Of what a model found on an image of (height, width): of its masks, (n, 1, height, width) or without
    the 1, from 0.5 on; where it has none, of its boxes.
    """
    if "masks" in result:
        masks = result["masks"].reshape(-1, *size) >= 0.5
        return [dict(rle.encode(np.asfortranarray(mask))) for mask in masks.cpu().to(torch.uint8).numpy()]
    boxes = _from_corners(result["boxes"]).cpu().numpy()
    return [dict(each) for each in rle.frPyObjects(boxes, *map(int, size))] if len(boxes) else []


def _from_corners(boxes: Tensor) -> Tensor:
    """Left, top, right, bottom -> left, top, width, height."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).double()


def from_all_ranks(found: list[Found]) -> list[Found] | None:
    """Every rank's detections, on rank 0, in the order of the images; None elsewhere. Collective."""
    shares: list[list[Found]] | None = (
        [[] for _ in range(dist.get_world_size())] if dist.get_rank() == 0 else None
    )
    dist.gather_object(found, shares)
    if shares is None:
        return None
    return sorted(
        (detection for share in shares for detection in share), key=lambda detection: detection["image_id"]
    )


def with_classes(
    ground_truth: dict[str, Any],
    found: list[Found],
    names: Sequence[str] = NAMES,
    *,
    kinds: Sequence[str] = tuple(_COCO_KINDS),
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """`mask_ap`, `mask_ap50`, ..., `box_ap_large` in percent, as COCO defines them, of masks and boxes as
    `kinds` says, and more of the twelve numbers as `names` says; those of which there is no object are left
    out. And a row per class: its objects (crowds left out), `mask_ap` and `box_ap`, which are None where it
    has no object.
    """
    metrics: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        for number, annotation in enumerate(truth.dataset["annotations"], 1):
            # pycocotools takes an object of id 0 that was found for one that was not.
            annotation["id"] = number
        truth.createIndex()
        rows = _classes(truth)
        for name in kinds:
            scores, by_class = _scores(truth, found, _COCO_KINDS[name], names)
            metrics |= {f"{name}_{key}": value for key, value in scores.items()}
            for category, row in rows.items():
                row[f"{name}_ap"] = by_class.get(category, 0.0) if row["objects"] else None
    return metrics, list(rows.values())


def _classes(truth: COCO) -> dict[int, dict[str, Any]]:
    objects = Counter(each["category_id"] for each in truth.dataset["annotations"] if not each.get("iscrowd"))
    categories = sorted(truth.dataset["categories"], key=lambda each: each["id"])
    return {each["id"]: {"class": each["name"], "objects": objects[each["id"]]} for each in categories}


def _scores(
    truth: COCO, found: list[Found], kind: str, names: Sequence[str]
) -> tuple[dict[str, float], dict[int, float]]:
    """COCO's numbers by name, and the average precision by category."""
    # loadRes would take an object's area from its box where it has one.
    left_out = "bbox" if kind == "segm" else "segmentation"
    results = [{key: value for key, value in detection.items() if key != left_out} for detection in found]
    evaluation = COCOeval(truth, truth.loadRes(results) if results else _nothing_found(), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    named = zip(names, evaluation.stats, strict=False)
    return {name: 100 * float(value) for name, value in named if value >= 0}, _by_class(evaluation)


def _nothing_found() -> COCO:
    """What loadRes makes of no detection at all: of that it raises IndexError."""
    nothing = COCO()
    nothing.dataset = {"images": [], "categories": [], "annotations": []}
    nothing.createIndex()
    return nothing


def _by_class(evaluation: COCOeval) -> dict[int, float]:
    """Over all thresholds and recalls, of objects of every size, with the most detections an image."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes
    return {
        category: 100 * float(precision[:, :, number].mean())
        for number, category in enumerate(evaluation.params.catIds)
        if (precision[:, :, number] >= 0).all()
    }
