"""Images with the objects on them: what a detection source gives, and how images are resized, flipped, padded
and put into batches.

Random numbers of an image (flip, short edge, which proposals its losses are taken over) belong to (seed,
epoch, image). Images are padded to the largest of their step, not of their micro-batch, since a convolution
sees the padding: so what comes of an image does not depend on which others a rank takes along with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lbtrain.data.augment import draws
from lbtrain.data.index import SplitIndex
from lbtrain.data.stream import Block


@dataclass(frozen=True)
class Sample:
    """One image. pixels: uint8 (height, width, 3); boxes: float32 (n, 4), left, top, right, bottom; labels:
    int64 (n,), 1 for the first class; decoded_masks: gives uint8 (n, height, width), 0 or 1.
    """

    image_id: int
    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    decoded_masks: Callable[[], NDArray[np.uint8]]

    @property
    def masks(self) -> NDArray[np.uint8]:
        return self.decoded_masks()


class InstanceSource(Protocol):
    """Images by number, with what has to be known before they are read."""

    sizes: NDArray[np.int64]
    """(height, width) of every image, shape (n, 2)."""
    class_names: Sequence[str]
    """Of the labels 1, 2, ..."""
    without_outline: str
    """The first object that has a box and no outline, for messages; empty where all have one."""

    @property
    def index(self) -> SplitIndex:
        """See `Source.index`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def image_id(self, index: int) -> int: ...

    def ground_truth(self) -> dict[str, Any]:
        """All of it in COCO's format, crowds included, for scoring; category ids as `category_id` says."""

    def category_id(self, label: int) -> int:
        """The label's id in `ground_truth`."""


class Item(NamedTuple):
    """A micro-batch to load: its examples and the (height, width) that all are padded to."""

    block: Block
    pad_to: tuple[int, int]


@dataclass(frozen=True)
class InstanceBatch:
    """A micro-batch. images: float32 (3, height, width) in [0, 1], each of its own size; targets: boxes,
    labels, and masks where the model learns from them, of each.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    pad_to: tuple[int, int]
    keys: list[int]
    """The seed of each image's own random numbers."""
    indices: list[int]
    original_sizes: list[tuple[int, int]]

    def __getitem__(self, some: slice) -> "InstanceBatch":
        """Some of the images, padded as in the whole."""
        lists = {
            name: getattr(self, name)[some]
            for name in ("images", "targets", "keys", "indices", "original_sizes")
        }
        return replace(self, **lists)

    def to(self, device: torch.device) -> "InstanceBatch":
        images = [image.to(device, non_blocking=True) for image in self.images]
        targets = [
            {name: value.to(device, non_blocking=True) for name, value in target.items()}
            for target in self.targets
        ]
        return replace(self, images=images, targets=targets)

    def pin_memory(self) -> "InstanceBatch":
        targets = [{name: value.pin_memory() for name, value in target.items()} for target in self.targets]
        return replace(self, images=[image.pin_memory() for image in self.images], targets=targets)


@dataclass(frozen=True)
class Preparation:
    """How an image becomes an input: short edge to one of `short_edges` (drawn per image and epoch), long
    edge to at most `max_size` (0: no bound), or both edges to that of a `square`; flipped left-right with
    probability 1/2. The last short edge is the one for scoring. `masks`: whether those of objects are made
    too.
    """

    short_edges: tuple[int, ...]
    max_size: int
    flip: bool
    seed: int
    masks: bool = True
    square: bool = False

    def sizes(self, block: Block, originals: NDArray[np.int64]) -> NDArray[np.int64]:
        """(height, width) of the block's images as the model sees them, shape (n, 2), without reading any."""
        edges = np.array(self.short_edges)[self._draws(block)[0] % np.uint64(len(self.short_edges))]
        if self.square:
            return np.stack([edges, edges], 1)
        scale = edges / originals.min(1)
        if self.max_size:
            scale = np.minimum(scale, self.max_size / originals.max(1))
        return np.maximum(1, np.rint(originals * scale[:, None])).astype(np.int64)

    def batch(self, source: InstanceSource, item: Item) -> InstanceBatch:
        """The images of `item` with their objects, resized and flipped: the same in any process."""
        sizes = self.sizes(item.block, source.sizes[item.block.indices])
        _, flips, keys = self._draws(item.block)
        samples = [source[int(index)] for index in item.block.indices]
        flipped = [self.flip and bool(flip % np.uint64(2)) for flip in flips]
        inputs = [
            _input(sample, (int(size[0]), int(size[1])), flip, self.masks)
            for sample, size, flip in zip(samples, sizes, flipped, strict=True)
        ]
        return InstanceBatch(
            images=[image for image, _ in inputs],
            targets=[target for _, target in inputs],
            pad_to=item.pad_to,
            keys=[int(key >> np.uint64(1)) for key in keys],
            indices=item.block.indices.tolist(),
            original_sizes=[(sample.pixels.shape[0], sample.pixels.shape[1]) for sample in samples],
        )

    def _draws(self, block: Block) -> NDArray[np.uint64]:
        return draws(block, self.seed, 3)


def _input(
    sample: Sample, size: tuple[int, int], flip: bool, with_masks: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The image and its target at `size`."""
    image = torch.from_numpy(np.ascontiguousarray(sample.pixels)).permute(2, 0, 1).float().div_(255)
    boxes = torch.from_numpy(sample.boxes)
    if image.shape[1:] != size:
        scale = torch.tensor([size[1] / image.shape[2], size[0] / image.shape[1]])
        image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        boxes = boxes * scale.repeat(2)
    if flip:
        image = image.flip(2)
        boxes = torch.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], 1)
    target = {"boxes": boxes, "labels": torch.from_numpy(sample.labels)}
    kept = not_empty(boxes)  # in float32 a flip or a smaller size may leave nothing of a thin box
    if with_masks:
        decoded = torch.from_numpy(sample.masks)
        kept &= decoded.flatten(1).any(1).bool()  # as detectron2's `filter_empty_instances` with bitmasks
        masks = _resized(decoded, size)
        target["masks"] = masks.flip(2) if flip else masks
    return image, target if kept.all() else {name: value[kept] for name, value in target.items()}


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    if not len(masks) or masks.shape[1:] == size:
        return masks.reshape(-1, *size)
    return F.interpolate(masks[None], size=size, mode="nearest")[0]


def not_empty(boxes: Any) -> Any:
    """Which of the boxes (an array or a tensor, n x 4) are wider and higher than nothing."""
    return (boxes[:, 2:] > boxes[:, :2]).all(1)


def padded(sizes: NDArray[np.int64]) -> tuple[int, int]:
    """(height, width) that holds all of `sizes`, in multiples of 32, which a feature pyramid divides."""
    height, width = -(-sizes.max(0) // 32) * 32
    return int(height), int(width)
