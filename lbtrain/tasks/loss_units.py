"""What makes the losses of an R-CNN independent of the batch split.

- **proposals** are sampled by the random numbers of their image (`SeededSampler`), not by a generator that
  the ranks share out;
- **losses** are normalised over `loss_batch_size` images. torchvision, like detectron2, divides the head
  losses of a micro-batch by the number of its sampled proposals (class and box) or of its foreground ones
  (mask), so two micro-batches of one image give another loss than one of two: how many images a rank takes at
  once is part of the loss, as it is for batch norm. Here that number is in the recipe, and `heads_in_units`
  runs the heads over so many images at a time, whatever the micro-batch holds.

Each loss is then a mean over units, and the engines' mean over accumulation and ranks is the mean over the
global batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

Losses = dict[str, Tensor]


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
    heads: Callable[..., tuple[list[Any], Losses]], unit: int, features: dict[str, Tensor], *lists: Any
) -> tuple[list[Any], Losses]:
    """The R-CNN heads of torchvision or detectron2 over `unit` images at a time: the mean of the units'
    losses. `lists` have an item per image, and the last is the targets, None outside training.
    """
    if lists[-1] is None:
        return heads(features, *lists)
    parts = []
    for first in range(0, len(lists[-1]), unit):
        some = slice(first, first + unit)
        pyramid = {name: feature[some] for name, feature in features.items()}
        parts.append(heads(pyramid, *(each[some] for each in lists))[1])
    return [], mean_of(parts)


def rpn_loss_in_units(
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
