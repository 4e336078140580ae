"""One step of each optimizer on one layer, written from the papers with explicit scalars, in float64: what
the code is held against.
"""

import math

from torch import Tensor


def norm(x: Tensor) -> float:
    return math.sqrt(sum(value * value for value in x.double().flatten().tolist()))


def lars_ratio(w: Tensor, g: Tensor, *, eta: float, wd: float, eps: float = 0.0) -> float:
    """You et al. 2017, eq. 6, with the answers to w=0 and g=0."""
    if norm(g) == 0:
        return 0.0
    if norm(w) == 0:
        return 1.0
    return eta * norm(w) / (norm(g) + wd * norm(w) + eps)


def lars_inside(
    w: Tensor, g: Tensor, v: Tensor, *, lr: float, m: float, wd: float, ratio: float
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 of the paper: the learning rate inside the buffer."""
    v = m * v + lr * ratio * (g + wd * w)
    return w - v, v


def lars_outside(
    w: Tensor, g: Tensor, u: Tensor, *, lr: float, m: float, wd: float, ratio: float
) -> tuple[Tensor, Tensor]:
    u = m * u + ratio * (g + wd * w)
    return w - lr * u, u


def lars_unscaled(
    w: Tensor, g: Tensor, v: Tensor, *, lr: float, m: float, wd: float, ratio: float
) -> tuple[Tensor, Tensor]:
    """NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch, lars.py, without its bounds."""
    v = m * v + g + wd * w
    return w - lr * ratio * v, v


def lars_of_mlperf(
    w: Tensor, g: Tensor, v: Tensor, *, lr: float, m: float, wd: float, eta: float, eps: float
) -> tuple[Tensor, Tensor]:
    """mlcommons/training, retired_benchmarks/resnet-tf2/tensorflow2/lars_optimizer.py:130-184: ratio 1 where
    a norm is 0; the learning rate is part of the buffer.
    """
    ratio = eta * norm(w) / (norm(g) + wd * norm(w) + eps) if norm(w) and norm(g) else 1.0
    v = m * v - lr * ratio * (g + wd * w)
    return w + v, v


def lamb(
    w: Tensor,
    g: Tensor,
    a: Tensor,
    c: Tensor,
    t: int,
    *,
    lr: float,
    b1: float,
    b2: float,
    eps: float,
    wd: float,
    corrected: bool = True,
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Algorithm 2 of You et al. 2019 with phi the identity; t counts from 1. Returns the new w, a, c and the
    ratio.
    """
    a = b1 * a + (1 - b1) * g
    c = b2 * c + (1 - b2) * g * g
    k1, k2 = (1 - b1**t, 1 - b2**t) if corrected else (1.0, 1.0)
    u = (a / k1) / ((c / k2).sqrt() + eps) + wd * w
    ratio = 0.0 if norm(g) == 0 else 1.0 if norm(w) == 0 else norm(w) / norm(u)
    return w - lr * ratio * u, a, c, ratio


LARS_FORMS = {"lr_and_trust_ratio": lars_inside, "trust_ratio": lars_outside, "none": lars_unscaled}
