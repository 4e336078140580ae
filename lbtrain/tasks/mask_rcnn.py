"""Mask R-CNN (He et al. 2017) from torchvision's parts on a timm backbone, made fit for the contract.

Three things go beyond torchvision, so that a step does not depend on the batch split:

- **proposals** are sampled by the random numbers of their image (`SeededSampler`), not by a generator that
  the ranks share out;
- **losses** are normalised over `loss_batch_size` images. torchvision, like detectron2, divides the head
  losses of a micro-batch by the number of its sampled proposals (class and box) or of its foreground ones
  (mask), so two micro-batches of one image give another loss than one of two: how many images a rank takes at
  once is part of the loss, as it is for batch norm. Here that number is in the recipe, and `in_units` runs
  the heads over so many images at a time, whatever the micro-batch holds;
- **padding** is to the largest image of the step (lbtrain.data.instances).

Each loss is then a mean over units, and the engines' mean over accumulation and ranks is the mean over the
global batch.
"""

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.poolers import MultiScaleRoIAlign, initLevelMapper

from lbtrain.data.instances import InstanceBatch
from lbtrain.tasks.backbones import STRIDES

Losses = dict[str, Tensor]

_SET_HERE = {
    "backbone",
    "num_classes",
    "min_size",
    "max_size",
    "image_mean",
    "image_std",
    "rpn_anchor_generator",
    "rpn_head",
    "box_roi_pool",
    "box_head",
    "box_predictor",
    "mask_roi_pool",
    "mask_head",
    "mask_predictor",
}
"""Arguments of torchvision's MaskRCNN that `Detector` gives itself, or that are for the transform which it
replaces.
"""


class Pyramid(nn.Module):
    """A timm network's feature maps at `STRIDES` and a feature pyramid on them (Lin et al. 2017), with a
    fifth level by pooling.
    """

    def __init__(self, body: nn.Module, channels: int):
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            cast(Any, body).feature_info.channels(), channels, extra_blocks=LastLevelMaxPool()
        )
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = OrderedDict((str(level), feature) for level, feature in enumerate(self.body(images)))
        return cast(dict[str, Tensor], self.fpn(features))


class Detector(MaskRCNN):
    """Called with an `InstanceBatch`: the losses by name in training, else torchvision's detections in pixels
    of the original images.
    """

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        *,
        loss_batch_size: int,
        channels: int = 256,
        box_features: int = 1024,
        mask_channels: int = 256,
        mask_layers: int = 4,
        smallest_anchor: int = 32,
        **arguments: Any,
    ):
        """`num_classes` without the background. More arguments are those of torchvision's MaskRCNN that
        `argument_names` lists; it takes any other name too, and does nothing with it.
        """
        anchors = AnchorGenerator(
            tuple((smallest_anchor * 2**level,) for level in range(5)), ((0.5, 1.0, 2.0),) * 5
        )
        super().__init__(
            Pyramid(body, channels),
            box_roi_pool=_pool(7, 7 * smallest_anchor),
            mask_roi_pool=_pool(14, 7 * smallest_anchor),
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(channels, 3),
            box_head=TwoMLPHead(channels * 7**2, box_features),
            box_predictor=FastRCNNPredictor(box_features, num_classes + 1),
            mask_head=MaskRCNNHeads(channels, [mask_channels] * mask_layers, 1),
            mask_predictor=MaskRCNNPredictor(mask_channels, mask_channels, num_classes + 1),
            **arguments,
        )
        self.transform = _Padding()
        self.samplers = [
            SeededSampler(part.fg_bg_sampler, salt) for salt, part in enumerate((self.rpn, self.roi_heads))
        ]
        self.rpn.fg_bg_sampler, self.roi_heads.fg_bg_sampler = self.samplers
        cast(Any, self.rpn).compute_loss = functools.partial(
            _rpn_loss_in_units, self.rpn.compute_loss, loss_batch_size
        )
        cast(Any, self.roi_heads).forward = functools.partial(
            heads_in_units, self.roi_heads.forward, loss_batch_size
        )

    def forward(self, batch: InstanceBatch) -> Any:
        cast(_Padding, self.transform).expect(batch)
        for sampler in self.samplers:
            sampler.keys = list(batch.keys)
        return super().forward(batch.images, batch.targets if self.training else None)


def argument_names() -> list[str]:
    """What `Detector` takes from a recipe by name: its own, and those of torchvision's MaskRCNN that it
    leaves open.
    """
    kinds = inspect.Parameter
    own = [
        name
        for name, each in inspect.signature(Detector).parameters.items()
        if each.kind is kinds.KEYWORD_ONLY
    ]
    theirs = [
        name
        for name, each in inspect.signature(MaskRCNN).parameters.items()
        if each.kind is kinds.POSITIONAL_OR_KEYWORD
    ]
    return [name for name in own + theirs if name not in _SET_HERE | {"loss_batch_size"}]


def _pool(output_size: int, canonical_scale: int) -> MultiScaleRoIAlign:
    """RoIAlign over the pyramid's levels of `STRIDES`; an object of `canonical_scale` pixels is looked at on
    stride 16.

    The strides are set here: torchvision would guess them at the first batch from the sizes of images before
    padding.
    """
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size, 2, canonical_scale=canonical_scale)
    pool.scales = [1 / stride for stride in STRIDES]
    # 4 and 32, as powers of two.
    pool.map_levels = initLevelMapper(
        2, 5, canonical_scale=canonical_scale, canonical_level=pool.canonical_level
    )
    return pool


class _Padding(GeneralizedRCNNTransform):
    """Images come at their size: this normalises them, pads them to the size of the step, and scales
    detections to the originals.
    """

    def __init__(self) -> None:
        super().__init__(0, 0, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))

    def expect(self, batch: InstanceBatch) -> None:
        self.pad_to, self.original_sizes = batch.pad_to, batch.original_sizes

    def resize(self, image: Tensor, target: Any = None) -> Any:
        return image, target

    def max_by_axis(self, the_list: list[list[int]]) -> list[int]:
        return [the_list[0][0], *self.pad_to]

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        return super().postprocess(result, image_shapes, self.original_sizes)


class SeededSampler(BalancedPositiveNegativeSampler):
    """torchvision's sampler, with each image's draws made by its own seed; set `keys` to the seeds of the
    images that come next.

    A candidate is taken if its random number is among the smallest, so one candidate more or less changes one
    of those taken, not all.
    """

    def __init__(self, like: BalancedPositiveNegativeSampler, salt: int):
        super().__init__(like.batch_size_per_image, like.positive_fraction)
        self.salt = salt
        self.keys: list[int] = []

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        chosen = [self._choose(labels, self.keys.pop(0)) for labels in matched_idxs]
        return [positive for positive, _ in chosen], [negative for _, negative in chosen]

    def _choose(self, labels: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Masks of the sampled foreground and background of one image; labels (n,): above 0, 0, or -1 for
        neither.
        """
        order = torch.rand(len(labels), generator=torch.Generator().manual_seed(key ^ self.salt)).to(
            labels.device
        )
        positive = _smallest(labels >= 1, order, int(self.batch_size_per_image * self.positive_fraction))
        negative = _smallest(labels == 0, order, self.batch_size_per_image - int(positive.sum()))
        return positive, negative


def _smallest(candidates: Tensor, order: Tensor, count: int) -> Tensor:
    """A mask (uint8) of the `count` candidates, or all, that come first in `order`."""
    mask = torch.zeros(len(candidates), dtype=torch.uint8, device=candidates.device)
    positions = torch.where(candidates)[0]
    mask[positions[order[positions].topk(min(count, len(positions)), largest=False).indices]] = 1
    return mask


def heads_in_units(
    heads: Callable[..., tuple[list[Any], Losses]],
    unit: int,
    features: dict[str, Tensor],
    proposals: list[Tensor],
    sizes: list[Any],
    targets: list[Any] | None = None,
) -> tuple[list[Any], Losses]:
    """torchvision's RoIHeads.forward over `unit` images at a time: the mean of the units' losses."""
    if targets is None:
        return heads(features, proposals, sizes, targets)
    parts = []
    for first in range(0, len(proposals), unit):
        some = slice(first, first + unit)
        parts.append(
            heads(
                {name: feature[some] for name, feature in features.items()},
                proposals[some],
                sizes[some],
                targets[some],
            )[1]
        )
    return [], mean_of(parts)


def _rpn_loss_in_units(
    compute_loss: Callable[..., tuple[Tensor, Tensor]],
    unit: int,
    objectness: Tensor,
    deltas: Tensor,
    labels: list[Tensor],
    targets: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """torchvision's loss of the proposal network over `unit` images at a time; every image has equally many
    anchors, in a row.
    """
    anchors = len(labels[0])
    parts = []
    for first in range(0, len(labels), unit):
        some, rows = slice(first, first + unit), slice(first * anchors, (first + unit) * anchors)
        objectness_loss, box_loss = compute_loss(objectness[rows], deltas[rows], labels[some], targets[some])
        parts.append({"objectness": objectness_loss, "box": box_loss})
    means = mean_of(parts)
    return means["objectness"], means["box"]


def mean_of(parts: list[Losses]) -> Losses:
    """The mean of each loss over parts of a batch that are normalised by themselves, all equally large."""
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
