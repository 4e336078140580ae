"""Augmentation whose random numbers belong to the sample, not to the worker that happens to load it.

A sample's draws are a hash of (seed, epoch, index in the data set), so they are the same for any number of
ranks and workers and after any restart. Small images are augmented a whole batch at a time, here; photos one
by one (lbtrain.data.views).
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lbtrain.data.stream import Block

_GOLDEN = 0x9E3779B97F4A7C15


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", figure 17: a bijective
    mixing of 64 bits.
    """
    with np.errstate(over="ignore"):
        x = x + np.uint64(_GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def draws(block: Block, seed: int, count: int) -> NDArray[np.uint64]:
    """`count` independent 64-bit numbers for each sample of the block, shape (count, n)."""
    key = _splitmix64(np.full(len(block.indices), seed, np.uint64))
    key = _splitmix64(key ^ block.epochs.astype(np.uint64))
    key = _splitmix64(key ^ block.indices.astype(np.uint64))
    return _splitmix64(key ^ _splitmix64(np.arange(count, dtype=np.uint64)[:, None]))


def fractions(numbers: NDArray[np.uint64]) -> NDArray[np.float64]:
    """64 random bits -> [0, 1)."""
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform(block: Block, seed: int) -> NDArray[np.float64]:
    """One number for each sample of the block, uniform in the open interval (0, 1), shape (n,)."""
    return ((draws(block, seed, 1)[0] >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def crop_flip(images: Tensor, block: Block, seed: int, padding: int = 4) -> Tensor:
    """Zero-pad, crop a random window of the old size, flip left-right with probability 1/2 (He et al. 2016,
    section 4.2).

    images: (n, height, width, channels), returned in the same shape and on the same device.
    """
    n, height, width, _ = images.shape
    span = np.uint64(2 * padding + 1)
    top, left, flip = draws(block, seed, 3)
    chosen = np.stack([top % span, left % span, flip % np.uint64(2)]).astype(np.int64)
    top_row, left_column, flipped = torch.from_numpy(chosen).to(images.device, non_blocking=True)[..., None]
    rows = top_row + torch.arange(height, device=images.device)
    columns = left_column + torch.arange(width, device=images.device)
    columns = torch.where(flipped.bool(), columns.flip(1), columns)
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    return padded[torch.arange(n, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
