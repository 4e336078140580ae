"""Layers that draw random numbers in training: a draw belongs to a micro-batch, and so to the batch split."""

from torch import nn

_RATES = ("drop_prob", "drop_rate")
"""What timm calls the share that a layer, or a whole model before its classifier, sets to zero."""


def random_layers(model: nn.Module) -> dict[str, str]:
    """Names of the layers of `model` with dropout or drop path (Huang et al. 2016), with the attribute that
    holds the rate of each, which is above 0.
    """
    found = {}
    for name, module in model.named_modules():
        rates = ("p",) if isinstance(module, nn.modules.dropout._DropoutNd) else _RATES
        for rate in rates:
            value = getattr(module, rate, 0)
            if isinstance(value, float) and value > 0:
                found[name] = rate
    return found


def without_random_layers(model: nn.Module) -> nn.Module:
    """`model` with dropout and drop path switched off, in place."""
    for name, rate in random_layers(model).items():
        setattr(model.get_submodule(name), rate, 0.0)
    return model
