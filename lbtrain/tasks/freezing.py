"""Parameters that are not trained (`model.freeze`), and what becomes of batch norm in the frozen part."""

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

from timm.layers.norm_act import FrozenBatchNorm2d, FrozenBatchNormAct2d, freeze_batch_norm_2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lbtrain.errors import RecipeError


def freeze_parameters(model: nn.Module, patterns: Sequence[str]) -> None:
    """Does not train the parameters whose whole names match one of `patterns` (layer1.*). Batch norm whose
    parameters all match becomes timm's FrozenBatchNorm: it normalises with its stored statistics, in training
    too, and they do not move. Raises RecipeError for a pattern that no parameter matches, and for batch norm
    that has no frozen form.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise RecipeError(
                f"model.freeze={pattern} matches no parameter of the model{_hint(pattern, names)}"
            )
    frozen = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    for name, module in list(model.named_modules()):
        own = {f"{name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)}
        if isinstance(module, _BatchNorm) and own and own <= frozen:
            fixed = freeze_batch_norm_2d(module)
            if isinstance(fixed, _BatchNorm):
                raise RecipeError(
                    f"model.freeze covers {name}, a {type(module).__name__}, whose statistics cannot be kept "
                    "fixed: leave it out of the patterns"
                )
            model.set_submodule(name, fixed)


def frozen_counts(model: nn.Module) -> tuple[int, int]:
    """How many parameters are not trained, and how many batch-norm layers are frozen. Theirs count as
    parameters: a scale and a shift, which timm keeps as buffers.
    """
    kinds = (FrozenBatchNorm2d, FrozenBatchNormAct2d)
    norms: list[Any] = [module for module in model.modules() if isinstance(module, kinds)]
    own = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    return own + sum(norm.weight.numel() + norm.bias.numel() for norm in norms), len(norms)


def _hint(pattern: str, names: list[str]) -> str:
    starts = list(dict.fromkeys(name.partition(".")[0] for name in names))
    near = difflib.get_close_matches(pattern.rstrip(".*"), starts, n=1)
    return f". Did you mean {near[0]}.*?" if near else f". Its parts are {', '.join(starts)}."
