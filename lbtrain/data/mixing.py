"""Mixup and CutMix whose partners and shares belong to the position in the run, not to the micro-batch that
happens to hold them.

Sources: Zhang et al. 2018, "mixup: Beyond empirical risk minimization"; Yun et al. 2019, "CutMix:
Regularization strategy to train strong classifiers with localizable features"; with the semantics of
`timm.data.Mixup(mode="batch")`, its batch being our ghost batch: image i is mixed with image n - 1 - i, with
one share for all, drawn from Beta(alpha, alpha). CutMix takes a box of the partner, whose share of the area
is cut off at the border; where both are set, each group draws which of them it gets. timm draws from numpy's
global generator and pairs images within whatever a worker holds; here a draw is a hash of (seed, number of
the group).

Cost: one pass over the images. A group that spans k ranks is loaded by all of them, whole.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lbtrain.data.augment import draws, fractions, uniform
from lbtrain.data.sources import Batch
from lbtrain.data.stream import Block

_SALT = 1 << 33
"""Keeps these draws apart from those of the augmentation, whose seed is below."""


class Mixes(NamedTuple):
    """Of n neighbouring positions: the share of its own label that each keeps, float32 (n,), and the box of
    its partner that it takes, int64 (n, 4): top, bottom, left, right. A box without area: mixup.
    """

    shares: NDArray[np.float32]
    boxes: NDArray[np.int64]


def draw_mixes(
    start: int,
    length: int,
    group: int,
    *,
    mixup: float,
    cutmix: float = 0.0,
    cutmix_share: float = 0.5,
    size: tuple[int, int] = (1, 1),
    seed: int,
) -> Mixes:
    """The draws of `length` positions from `start` on, in groups of `group`. mixup, cutmix: alpha of each, 0
    for none; cutmix_share: probability of CutMix where both are set; size: height and width of the images.
    """
    block = Block.of(np.arange(start, start + length) // group)
    quantile = uniform(block, seed + _SALT)
    switch, down, across = fractions(draws(block, seed + _SALT, 4)[1:])
    cut = switch < cutmix_share if mixup and cutmix else np.full(length, bool(cutmix))
    shares = np.where(cut, _beta(quantile, cutmix), _beta(quantile, mixup))
    boxes = _boxes(shares, down, across, *size) * cut[:, None]
    top, bottom, left, right = boxes.T
    kept = np.where(cut, 1 - (bottom - top) * (right - left) / (size[0] * size[1]), shares)
    return Mixes(kept.astype(np.float32), boxes)


def _beta(quantile: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    from scipy.special import betaincinv

    return np.asarray(betaincinv(alpha, alpha, quantile)) if alpha else np.ones_like(quantile)


def _boxes(
    shares: NDArray[np.float64],
    down: NDArray[np.float64],
    across: NDArray[np.float64],
    height: int,
    width: int,
) -> NDArray[np.int64]:
    """timm.data.mixup.rand_bbox: a box of 1 - share of the area around a random centre, cut off at the
    border.
    """
    sides = []
    for length, draw in ((height, down), (width, across)):
        cut, centre = (length * np.sqrt(1 - shares)).astype(np.int64), (draw * length).astype(np.int64)
        sides += [(centre - cut // 2).clip(0, length), (centre + (cut + 1) // 2).clip(0, length)]
    return np.stack(sides, axis=1)


def mix(batch: Batch, mixes: Mixes, *, group: int, num_classes: int) -> Batch:
    """Mixes a batch of whole groups. Returns the images and, as labels, probabilities of shape (n,
    num_classes).

    Label smoothing of such labels is left to the loss: smoothing and mixing commute.
    """
    images, labels = batch
    share, boxes = (torch.from_numpy(part).to(images.device, non_blocking=True) for part in mixes)
    hot = F.one_hot(labels, num_classes).to(images.dtype)
    return _mixed(images, _of_pixels(share, boxes, images), group), _mixed(hot, share.view(-1, 1), group)


def _of_pixels(share: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
    """What each pixel keeps of its own image, (n, 1, height, width) or, without any box, (n, 1, 1, 1)."""
    if not boxes.any():
        return share.view(-1, 1, 1, 1)
    top, bottom, left, right = boxes.view(-1, 4, 1, 1).unbind(1)
    rows, columns = (torch.arange(length, device=images.device) for length in images.shape[-2:])
    inside = (rows[:, None] >= top) & (rows[:, None] < bottom) & (columns >= left) & (columns < right)
    has_box = (bottom > top) & (right > left)
    return torch.where(has_box, (~inside).to(share.dtype), share.view(-1, 1, 1))[:, None]


def _mixed(values: Tensor, share: Tensor, group: int) -> Tensor:
    mirrored = values.unflatten(0, (-1, group)).flip(1).flatten(0, 1)
    return values * share + mirrored * (1 - share)
