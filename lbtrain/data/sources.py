"""A source turns a block of the sample stream into a batch of tensors; the same block gives the same batch in
any process.
"""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lbtrain.data.augment import crop_flip
from lbtrain.data.index import SplitIndex, digests
from lbtrain.data.operators import NO_OPERATORS, Operators
from lbtrain.data.stream import Block

Batch = tuple[Tensor, Tensor]
"""Images (n, channels, height, width) in float32, normalised; labels (n,) in int64."""


NOT_SCORED = -1
"""The label, in an evaluation, of an image that cannot be read."""


class Source(Protocol):
    """The images of one split of a data set, by number."""

    @property
    def index(self) -> SplitIndex:
        """Counts, classes, notes, and a fingerprint that is the same wherever the same data are."""

    def __len__(self) -> int: ...

    def fetch(self, block: Block) -> Batch:
        """The batch of a block of the sample stream: the same in any process, augmentation included."""

    def sized(self, size: int) -> "Source":
        """The same images, `size` pixels a side; their augmentation draws the same numbers."""


class InMemorySource:
    """A source whose tensors may live on the device that trains, so that a step waits for no copy. Subclasses
    index on `device`.
    """

    device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        self.device = device


class ArraySource(InMemorySource):
    """Images held in memory. images: uint8 (N, height, width, channels); labels: (N,); mean and std per
    channel, in units of 0 to 255.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[Any],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: bool,
        seed: int,
        operators: Operators = NO_OPERATORS,
    ):
        self.images = torch.from_numpy(images)
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.mean = torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1)
        self.augment, self.operators = augment, operators
        self.size: int | None = None
        """Pixels a side to which augmented images are scaled, bilinearly and antialiased."""
        self.seed = seed
        classes = int(self.labels.max()) + 1 if len(labels) else 0
        self.index = SplitIndex(
            len(labels), classes, None, digests(images=images, labels=self.labels.numpy())
        )

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, block: Block) -> Batch:
        indices = torch.from_numpy(block.indices).to(self.device, non_blocking=True)
        images = self.images[indices]
        if self.augment:
            images = crop_flip(images, block, self.seed)
        pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        seen = self._normalised(pixels, block)
        if self.size:
            seen = F.interpolate(seen, (self.size, self.size), mode="bilinear", antialias=True)
        return seen, self.labels[indices]

    def sized(self, size: int) -> "ArraySource":
        """See `Source`."""
        other = copy.copy(self)
        other.size = size if size != self.images.shape[1] else None
        return other

    def _normalised(self, pixels: Tensor, block: Block) -> Tensor:
        """With what the operators do, which Pillow does on the host, one image after the other."""
        if not self.operators:
            return pixels.sub_(self.mean).div_(self.std)
        numbers = self.operators.numbers(block, self.seed)
        host = [
            self.operators.vary(image, number).float()
            for image, (number, _) in zip(pixels.byte().cpu(), numbers, strict=True)
        ]
        seen = torch.stack(host).sub_(self.mean.cpu()).div_(self.std.cpu())
        for image, (_, number) in zip(seen, numbers, strict=True):
            self.operators.erase(image, number)
        return seen.to(self.device)


class SyntheticSource(InMemorySource):
    """Noise images made once, so that a run with them measures everything but the loading. Labels are the
    index modulo the classes.
    """

    def __init__(self, num_examples: int, num_classes: int, channels: int, image_size: int):
        self.num_examples = num_examples
        self.num_classes = num_classes
        self.pool = torch.randn(
            64, channels, image_size, image_size, generator=torch.Generator().manual_seed(0)
        )
        self.index = SplitIndex(num_examples, num_classes, None, digests(classes=num_classes))

    def __len__(self) -> int:
        return self.num_examples

    def sized(self, size: int) -> "SyntheticSource":
        """See `Source`: noise of that size."""
        return SyntheticSource(self.num_examples, self.num_classes, self.pool.shape[1], size)

    def fetch(self, block: Block) -> Batch:
        indices = torch.from_numpy(block.indices).to(self.device, non_blocking=True)
        return self.pool[indices % len(self.pool)], indices % self.num_classes
