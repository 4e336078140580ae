"""A Mask R-CNN, a Faster R-CNN and a RetinaNet that are small enough to be run in every combination."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork

from lbtrain import Recipe
from lbtrain.data import instances, registry

TINY: dict[str, Any] = dict(
    batch_size=8,
    bn_batch_size=2,
    loss_batch_size=2,
    duration="6it",
    model=dict(
        library="torchvision",
        name="resnet18",
        args=dict(
            backbone=dict(layers=[1, 1, 1, 1], channels=[8, 16, 16, 16]),
            channels=16,
            box_features=16,
            mask_channels=16,
            mask_layers=1,
            smallest_anchor=8,
            rpn_batch_size_per_image=32,
            rpn_pre_nms_top_n_train=50,
            rpn_pre_nms_top_n_test=50,
            rpn_post_nms_top_n_train=20,
            rpn_post_nms_top_n_test=20,
            box_batch_size_per_image=16,
            box_detections_per_img=5,
            box_score_thresh=0.0,
        ),
    ),
    data=dict(name="shapes", image_size=64, augmentation="flip"),
    schedule=dict(base_lr=0.002, base_batch_size=8, warmup="3it", warmup_start_lr=0.0005, decay="cosine"),
    log_every="1it",
    evaluate_every="1dur",
    checkpoint=dict(every="3it"),
)


_ARGUMENTS: dict[str, Any] = TINY["model"]["args"]
KINDS: dict[str, dict[str, Any]] = {
    "mask_rcnn": {},
    "faster_rcnn": dict(
        model=dict(
            detector="faster_rcnn",
            args={name: value for name, value in _ARGUMENTS.items() if not name.startswith("mask_")},
        )
    ),
    "retinanet": dict(
        loss_batch_size=1,
        model=dict(
            detector="retinanet",
            args={name: _ARGUMENTS[name] for name in ("backbone", "channels", "smallest_anchor")}
            | dict(score_thresh=0.0, topk_candidates=20, detections_per_img=5),
        ),
    ),
}
"""What makes each kind of detector of `TINY`."""


def tiny(**changes: Any) -> Recipe:
    return Recipe().vary(**TINY).vary(**changes)


def run_tiny(
    changes: dict[str, Any], run_dir: str, eval_images: int, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """One rank's part of a run in `dtype` that scores so many images; importable by the workers."""
    from lbtrain.run import run

    with pytest.MonkeyPatch.context() as patch, _computing_in(dtype, patch):
        patch.setitem(
            registry._FACTS,
            "shapes",
            dataclasses.replace(registry._FACTS["shapes"], eval_examples=eval_images),
        )
        return run(tiny(**changes).vary(run_dir=run_dir), "tiny", on_screen=False)


@contextlib.contextmanager
def _computing_in(dtype: torch.dtype, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights, images and boxes in `dtype`. No recipe asks for float64: it is for telling rounding from
    error.
    """
    read, match = instances._input, RegionProposalNetwork.assign_targets_to_anchors

    def converted(*arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        image, target = read(*arguments)
        return image.to(dtype), target | {"boxes": target["boxes"].to(dtype)}

    def matched(*arguments: Any) -> tuple[list[Tensor], list[Tensor]]:
        # torchvision makes these labels float32, and the loss takes the dtype of its labels.
        labels, boxes = match(*arguments)
        return [label.to(dtype) for label in labels], boxes

    before = torch.get_default_dtype()
    patch.setattr(instances, "_input", converted)
    patch.setattr(RegionProposalNetwork, "assign_targets_to_anchors", matched)
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
