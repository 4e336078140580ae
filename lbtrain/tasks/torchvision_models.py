"""torchvision's detectors on a timm backbone, made fit for the contract: Mask R-CNN (He et al. 2017), Faster
R-CNN (Ren et al. 2015) and RetinaNet (Lin et al. 2017, "Focal loss for dense object detection").

A step must not depend on the batch split. So images are padded to the largest of their step
(lbtrain.data.instances), and the losses of the two R-CNNs, which are no means over images, are taken as
lbtrain.tasks.loss_units says. RetinaNet's are: each image's loss is divided by its own number of foreground
anchors, and nothing is sampled.
"""

import functools
import inspect
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)
from torchvision.ops.poolers import MultiScaleRoIAlign, initLevelMapper

from lbtrain.data.instances import InstanceBatch
from lbtrain.tasks.backbones import STRIDES
from lbtrain.tasks.loss_units import SeededSampler, heads_in_units, rpn_loss_in_units

_RATIOS = (0.5, 1.0, 2.0)
_SET_HERE = {
    "self", "body", "backbone", "rpn", "roi_heads", "transform", "num_classes",
    "min_size", "max_size", "image_mean", "image_std",
    "rpn_anchor_generator", "rpn_head", "box_roi_pool", "box_head", "box_predictor",
    "anchor_generator", "head", "proposal_matcher",
}  # fmt: skip
"""Arguments of torchvision's detectors that are set here, or that are for the transform which is replaced."""


class _Anchors(AnchorGenerator):
    """In fp32 where the features are in half precision: bf16 has steps of 8 pixels above 1,024."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        super().set_cell_anchors(_at_least_fp32(dtype), device)


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _widen(_: nn.Module, __: Any, output: Any) -> Any:
    """A forward hook of what predicts logits and offsets: torchvision computes boxes in their type."""
    if isinstance(output, Tensor):
        return output.to(_at_least_fp32(output.dtype))
    if isinstance(output, dict):
        return {name: _widen(_, __, each) for name, each in output.items()}
    return type(output)(_widen(_, __, each) for each in output)


class Pyramid(nn.Module):
    """The feature maps of a timm network and a feature pyramid on them (Lin et al. 2017), with the levels
    that `extra` adds.
    """

    def __init__(self, body: nn.Module, channels: int, extra: ExtraFPNBlock):
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            cast(Any, body).feature_info.channels(), channels, extra_blocks=extra
        )
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = OrderedDict((str(level), feature) for level, feature in enumerate(self.body(images)))
        return cast(dict[str, Tensor], self.fpn(features))


class Detector(nn.Module):
    """A detector of torchvision that is called with an `InstanceBatch`: the losses by name in training, else
    torchvision's detections in pixels of the original images.
    """

    strides: tuple[int, ...] = STRIDES
    """Of the backbone's feature maps that the pyramid stands on."""
    samplers: tuple[SeededSampler, ...] = ()

    def forward(self, batch: InstanceBatch) -> Any:
        cast(_Padding, self.transform).expect(batch)
        for sampler in self.samplers:
            sampler.keys = list(batch.keys)
        return super().forward(batch.images, batch.targets if self.training else None)

    def normalise_inputs(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """By mean and deviation per channel, in units of 0 to 255."""
        padding = cast(_Padding, self.transform)
        # 0.224 is 57.12 of 255, and 0.22399999999999998 the other way round.
        padding.image_mean = [round(value / 255, 12) for value in mean]
        padding.image_std = [round(value / 255, 12) for value in std]

    def normalise_over(self, images: int) -> None:
        """Take the losses over so many images at a time, where they are no means over images."""


class FasterRCNNDetector(Detector, FasterRCNN):
    """Proposals on strides 4 to 64, and boxes."""

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        *,
        channels: int = 256,
        box_features: int = 1024,
        smallest_anchor: int = 32,
        **arguments: Any,
    ):
        """`num_classes` without the background. More arguments are those of torchvision's FasterRCNN that
        `argument_names` lists; it takes any other name too, and does nothing with it.
        """
        anchors = _Anchors(tuple((smallest_anchor * 2**level,) for level in range(5)), (_RATIOS,) * 5)
        super().__init__(
            Pyramid(body, channels, LastLevelMaxPool()),
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(channels, len(_RATIOS)),
            box_roi_pool=_pool(7, 7 * smallest_anchor),
            box_head=TwoMLPHead(channels * 7**2, box_features),
            box_predictor=FastRCNNPredictor(box_features, num_classes + 1),
            **arguments,
        )
        self.transform = _Padding()
        parts = cast(Any, self.rpn), cast(Any, self.roi_heads)
        for head in (parts[0].head, parts[1].box_predictor):
            head.register_forward_hook(_widen)
        self.samplers = tuple(SeededSampler(part.fg_bg_sampler, salt) for salt, part in enumerate(parts))
        for part, sampler in zip(parts, self.samplers, strict=True):
            part.fg_bg_sampler = sampler

    def normalise_over(self, images: int) -> None:
        rpn, heads = cast(Any, self.rpn), cast(Any, self.roi_heads)
        rpn.compute_loss = functools.partial(rpn_loss_in_units, rpn.compute_loss, images)
        heads.forward = functools.partial(heads_in_units, heads.forward, images)


class MaskRCNNDetector(FasterRCNNDetector):
    """Faster R-CNN with a mask for each box: torchvision's MaskRCNN."""

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        *,
        channels: int = 256,
        mask_channels: int = 256,
        mask_layers: int = 4,
        smallest_anchor: int = 32,
        **arguments: Any,
    ):
        super().__init__(body, num_classes, channels=channels, smallest_anchor=smallest_anchor, **arguments)
        heads = cast(Any, self.roi_heads)
        heads.mask_roi_pool = _pool(14, 7 * smallest_anchor)
        heads.mask_head = MaskRCNNHeads(channels, [mask_channels] * mask_layers, 1)
        heads.mask_predictor = MaskRCNNPredictor(mask_channels, mask_channels, num_classes + 1)


class RetinaNetDetector(Detector, RetinaNet):
    """Boxes straight from the pyramid on strides 8 to 128, at nine anchors a place; focal loss."""

    strides = STRIDES[1:]

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        *,
        channels: int = 256,
        smallest_anchor: int = 32,
        **arguments: Any,
    ):
        """As for `FasterRCNNDetector`, of torchvision's RetinaNet."""
        sizes = tuple(
            tuple(int(smallest_anchor * 2**level * 2 ** (third / 3)) for third in range(3))
            for level in range(5)
        )
        super().__init__(
            Pyramid(body, channels, LastLevelP6P7(channels, channels)),
            num_classes + 1,
            anchor_generator=_Anchors(sizes, (_RATIOS,) * 5),
            **arguments,
        )
        cast(nn.Module, self.head).register_forward_hook(_widen)
        self.transform = _Padding()

    def postprocess_detections(self, *found: Any) -> list[dict[str, Tensor]]:
        """Without the background, which torchvision scores as well: it is no object."""
        images: Any = super().postprocess_detections(*found)
        return [{name: each[image["labels"] > 0] for name, each in image.items()} for image in images]


DETECTORS: dict[str, type[Detector]] = {
    "mask_rcnn": MaskRCNNDetector,
    "faster_rcnn": FasterRCNNDetector,
    "retinanet": RetinaNetDetector,
}
"""By model.detector."""


def argument_names(detector: type[Detector]) -> list[str]:
    """What a detector takes from a recipe by name: its own arguments, and those of torchvision's that it
    leaves open.
    """
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [
        name
        for base in detector.__mro__
        if issubclass(base, nn.Module) and "__init__" in vars(base)
        for name, each in inspect.signature(base.__init__).parameters.items()
        if each.kind in kinds and name not in _SET_HERE
    ]
    return list(dict.fromkeys(names))


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
