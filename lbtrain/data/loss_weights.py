"""Multiplicative noise on the gradient: each example's loss times a draw that belongs to the example and the
epoch.

Source: Hoffer et al. 2017, section 4: the gradient becomes 1/B * sum of g_n z_n with z_n ~ N(1, sigma^2),
whose covariance can be kept as B grows by sigma^2 proportional to B. There it stands beside the square-root
rule, which replaces it.

Cost: none to speak of. The logged training loss is the weighted one.
"""

import torch
from torch import Tensor

from lbtrain.data.augment import uniform
from lbtrain.data.stream import Block

_SALT = 1 << 34


def noisy_weights(block: Block, *, sigma: float, seed: int) -> Tensor:
    """z of each example of the block, shape (n,), float32."""
    normal = torch.special.ndtri(torch.from_numpy(uniform(block, seed + _SALT)))
    return (1 + sigma * normal).float()
