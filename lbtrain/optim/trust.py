"""What the layer-wise rates are: the last step's trust ratios, and |w| / |g| of every layer.

The ratios are computed in every step anyway; asking for them costs one read from the device, so a loop asks
every N steps:

    if step % 100 == 0:
        log(trust_summary(optimizer)._asdict())
"""

import statistics
from typing import NamedTuple

import torch
from torch import nn

from .layerwise import LayerwiseOptimizer
from .norms import squared_norms


class TrustSummary(NamedTuple):
    """Over the adapted layers of the last step."""

    min: float
    median: float
    max: float


class LayerNorms(NamedTuple):
    """One column of the LARS paper's Table 2."""

    name: str
    weight_norm: float
    gradient_norm: float
    ratio: float


def trust_ratios(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return {layer: ratio} of the last step, for the adapted layers; empty before the first step and for
    other optimizers.

    Under sharding every rank has all layers, since the norms are whole-layer norms. Synchronises the device
    once.
    """
    if not isinstance(optimizer, LayerwiseOptimizer) or not optimizer.last_ratios:
        return {}
    rounds = optimizer.last_ratios.values()
    values = torch.cat([ratios for _, ratios in rounds]).tolist()
    return dict(zip((name for names, _ in rounds for name in names), values, strict=True))


def trust_summary(optimizer: torch.optim.Optimizer) -> TrustSummary | None:
    """Return the smallest, the median and the largest ratio of the last step; None where there is none."""
    ratios = trust_ratios(optimizer).values()
    return TrustSummary(min(ratios), statistics.median(ratios), max(ratios)) if ratios else None


def weight_gradient_ratios(model: nn.Module) -> list[LayerNorms]:
    """Return |w|, |g| and |w| / |g| of every parameter that has a gradient, in the model's order, weights and
    biases apart.

    This is Table 2 of You et al. 2017 for any model: call it after the first backward pass. That the ratios
    span decades (there 5.8 to 1,345 in AlexNet-BN) is the paper's case for layer-wise rates. For whole
    layers: call it before ZeRO-3 or FSDP cuts them.
    """
    layers = [(name, p, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    if not layers:
        raise ValueError(
            "no parameter of the model has a gradient; call loss.backward() first, and ask before "
            "optimizer.zero_grad()"
        )
    weights = squared_norms([p.detach() for _, p, _ in layers]).sqrt().tolist()
    gradients = squared_norms([g for _, _, g in layers]).sqrt().tolist()
    return [
        LayerNorms(name, weight, gradient, weight / gradient if gradient else float("inf"))
        for (name, _, _), weight, gradient in zip(layers, weights, gradients, strict=True)
    ]
