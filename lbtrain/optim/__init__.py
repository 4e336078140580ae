"""Optimizers for large minibatches: LARS and LAMB, right under sharding too, and the filters that say which
parameters they adapt.

They work in any loop; `docs/optimizers.md` shows how.
"""

import torch
from torch import nn

from lbtrain.recipe import OptimizerConfig

from .colossalai import bind_colossalai, colossalai_shards
from .deepspeed import bind_deepspeed, deepspeed_shards
from .groups import ParameterRole, parameter_groups, parameter_roles
from .lamb import LAMB
from .lars import LARS
from .layout import UnsupportedSharding
from .muon import Muon
from .norms import gradient_norms, named_layers
from .sgd import create_sgd
from .sharding import Shards
from .trust import LayerNorms, TrustSummary, trust_ratios, trust_summary, weight_gradient_ratios

__all__ = [
    "LAMB",
    "LARS",
    "LayerNorms",
    "Muon",
    "ParameterRole",
    "Shards",
    "TrustSummary",
    "UnsupportedSharding",
    "bind_colossalai",
    "bind_deepspeed",
    "colossalai_shards",
    "create_optimizer",
    "deepspeed_shards",
    "gradient_norms",
    "named_layers",
    "parameter_groups",
    "parameter_roles",
    "trust_ratios",
    "trust_summary",
    "weight_gradient_ratios",
]


def create_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe. Its rate is 0 until the training loop sets it, before every step."""
    groups = parameter_groups(
        model,
        weight_decay=config.weight_decay,
        no_decay=list(config.no_decay),
        no_trust_ratio=list(config.no_trust_ratio),
    )
    if config.name == "sgd":
        return create_sgd(groups, momentum=config.momentum, nesterov=config.nesterov)
    if config.name == "lars":
        return LARS(
            groups,
            lr=0.0,
            momentum=config.momentum,
            trust_coefficient=config.trust_coefficient,
            eps=config.eps,
            nesterov=config.nesterov,
            momentum_scaling=config.momentum_scaling,
            trust_clip=config.trust_clip,
            larc_clip=config.larc_clip,
        )
    if config.name == "lamb":
        return LAMB(
            groups,
            lr=0.0,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            bias_correction=config.bias_correction,
            trust_clip=config.trust_clip,
        )
    raise ValueError(f"optimizer.name={config.name!r} is not known; write sgd, lars or lamb")
