"""Layers that draw random numbers in training: a draw belongs to a micro-batch, and so to the batch split."""

from torch import nn
from torchvision.ops import DropBlock2d, StochasticDepth

_WITH_P = (nn.modules.dropout._DropoutNd, StochasticDepth, DropBlock2d)
"""Whose rate is `p`; elsewhere (in pooling, for example) that is another number."""
_RATES = (
    "drop_prob",
    "drop_rate",
    "prob",
    "patch_drop_rate",
    "attn_drop_p",
    "drop",
    "dropout",
    "attention_dropout",
    "aug_active",
)
"""What timm, torch and torchvision call the share that a layer, or a whole model, sets to zero or leaves out;
the last is a switch, of timm's rotary embeddings that move their coordinates.
"""


def random_layers(model: nn.Module) -> dict[str, list[str]]:
    """Names of the layers of `model` that draw, by dropout, drop path (Huang et al. 2016) or the like, with
    the attributes that hold the rates of each, which are above 0.
    """
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        for rate in ("p",) if isinstance(module, _WITH_P) else _RATES:
            value = getattr(module, rate, 0)
            if isinstance(value, (int, float)) and value > 0:
                found.setdefault(name, []).append(rate)
    return found


def without_random_layers(model: nn.Module) -> nn.Module:
    """`model` with every such layer switched off, in place."""
    for name, rates in random_layers(model).items():
        layer = model.get_submodule(name)
        for rate in rates:
            setattr(layer, rate, type(getattr(layer, rate))())
    return model
