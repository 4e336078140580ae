"""Optimizers for large minibatches: LARS, LAMB and Muon, right under sharding too, and the filters that say
which parameters they adapt.

They work in any loop; `docs/optimizers.md` shows how.
"""

import torch
import torch.distributed as dist
from torch import nn

from lbtrain.recipe import OptimizerConfig

from .colossalai import bind_colossalai, colossalai_shards
from .deepspeed import bind_deepspeed, deepspeed_shards
from .fused import create_adamw, create_sgd
from .groups import ParameterRole, layer_lr_scales, parameter_groups, parameter_roles
from .lamb import LAMB
from .lars import LARS
from .layout import UnsupportedSharding
from .muon import Muon
from .norms import gradient_norms, named_layers
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
    "layer_lr_scales",
    "named_layers",
    "parameter_groups",
    "parameter_roles",
    "trust_ratios",
    "trust_summary",
    "weight_gradient_ratios",
]


def create_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe. Its rate is 0 until the training loop sets it, before every step: to
    the rate of the schedule times the group's "lr_scale".
    """
    groups = parameter_groups(
        model,
        weight_decay=config.weight_decay,
        no_decay=list(config.no_decay),
        no_trust_ratio=list(config.no_trust_ratio),
        no_muon=list(config.no_muon) if config.name == "muon" else None,
        lr_scales=layer_lr_scales(model, config.layer_decay, config.head_lr_ratio),
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
            clip_value=config.clip_value,
        )
    betas = (config.beta1, config.beta2)
    if config.name == "lamb":
        return LAMB(
            groups,
            lr=0.0,
            betas=betas,
            eps=config.eps,
            bias_correction=config.bias_correction,
            trust_clip=config.trust_clip,
        )
    if config.name == "adamw":
        return create_adamw(groups, betas=betas, eps=config.eps)
    if config.name == "nadamw":
        from timm.optim import NAdamW

        return NAdamW(groups, lr=0.0, betas=betas, eps=config.eps)
    if config.name == "muon":
        for group in groups:
            group["lr_scale"] *= 1.0 if group["use_muon"] else config.adamw_lr_ratio
        return Muon(
            groups,
            lr=0.0,
            momentum=config.momentum,
            nesterov=config.nesterov,
            newton_schulz_steps=config.newton_schulz_steps,
            rate_adjustment=config.rate_adjustment,
            betas=betas,
            eps=config.eps,
            process_group=dist.group.WORLD if dist.is_initialized() else None,
        )
    raise ValueError(
        f"optimizer.name={config.name!r} is not known; use sgd, lars, lamb, adamw, nadamw or muon"
    )
