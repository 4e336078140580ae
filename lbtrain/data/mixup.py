"""Mixup whose partners and shares belong to the position in the run, not to the micro-batch that happens to
hold them.

Source: Zhang et al. 2018, "mixup: Beyond empirical risk minimization", with the semantics of
`timm.data.Mixup(mode="batch")`, its batch being our ghost batch: image i is mixed with image n - 1 - i, with
one share for all, drawn from Beta(alpha, alpha). timm draws it from numpy's global generator and pairs images
within whatever a worker holds; here it is a hash of (seed, number of the group).

Cost: one pass over the images. A group that spans k ranks is loaded by all of them, whole.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lbtrain.data.augment import uniform
from lbtrain.data.sources import Batch
from lbtrain.data.stream import Block

_SALT = 1 << 33
"""Keeps these draws apart from those of the augmentation, whose seed is below."""


def mixup_shares(start: int, length: int, group: int, *, alpha: float, seed: int) -> NDArray[np.float32]:
    """What each of `length` positions from `start` on keeps of its own image, shape (length,)."""
    from scipy.special import betaincinv

    numbers = np.arange(start, start + length) // group
    quantile = uniform(Block(np.zeros_like(numbers), numbers), seed + _SALT)
    return betaincinv(alpha, alpha, quantile).astype(np.float32)


def mixup(batch: Batch, shares: NDArray[np.float32], *, group: int, num_classes: int) -> Batch:
    """Mixes a batch of whole groups. Returns the images and, as labels, probabilities of shape (n,
    num_classes).

    Label smoothing of such labels is left to the loss: smoothing and mixing commute.
    """
    images, labels = batch
    share = torch.from_numpy(shares).to(images.device, non_blocking=True)
    hot = F.one_hot(labels, num_classes).to(images.dtype)
    return _mixed(images, share.view(-1, 1, 1, 1), group), _mixed(hot, share.view(-1, 1), group)


def _mixed(values: Tensor, share: Tensor, group: int) -> Tensor:
    mirrored = values.unflatten(0, (-1, group)).flip(1).flatten(0, 1)
    return values * share + mirrored * (1 - share)
