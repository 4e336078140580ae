"""Which parameters are decayed, and which take a layer-wise step: two filters that are set apart.

Weight decay on norm parameters and biases costs accuracy at large batches (Goyal et al. 2017, section 5.3;
Hoffer et al. 2019), and so does adapting their learning rate (0.7 to 1.9 points in public LARS
reproductions). Both filters hold them back by default, but a parameter may be decayed and not adapted, or the
other way about.
"""

import difflib
import fnmatch
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

KINDS = ("norm", "bias")


class ParameterRole(NamedTuple):
    """What the optimizer does with one parameter."""

    name: str
    numel: int
    decay: bool
    use_trust_ratio: bool


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    no_decay: Sequence[str] = KINDS,
    no_trust_ratio: Sequence[str] = KINDS,
) -> list[dict[str, Any]]:
    """Cut the trainable parameters of `model` into at most four torch parameter groups: decayed or not,
    adapted or not.

    An entry of `no_decay` or `no_trust_ratio` is `norm` (every parameter of a normalisation layer), `bias`
    (every parameter called bias) or a pattern for whole parameter names (`head.*`). The groups carry
    `params`, `param_names`, `weight_decay` and `adapt`; they keep the model's order; a tied parameter is in
    one group, once, under its first name. Works on a model on the meta device.
    """
    parameters = dict(_trainable(model))
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for role in parameter_roles(model, no_decay=no_decay, no_trust_ratio=no_trust_ratio):
        blank = {
            "params": [],
            "param_names": [],
            "weight_decay": weight_decay if role.decay else 0.0,
            "use_trust_ratio": role.use_trust_ratio,
        }
        group = groups.setdefault((role.decay, role.use_trust_ratio), blank)
        group["params"].append(parameters[role.name])
        group["param_names"].append(role.name)
    return [groups[key] for key in sorted(groups, reverse=True)]


def parameter_roles(
    model: nn.Module, *, no_decay: Sequence[str] = KINDS, no_trust_ratio: Sequence[str] = KINDS
) -> list[ParameterRole]:
    """List every trainable parameter in the model's order with what the filters say of it."""
    names = [name for name, _ in _trainable(model)]
    if not names:
        raise ValueError(
            "the model has no trainable parameter: nothing to optimize. Set requires_grad_(True) on some of "
            "them"
        )
    norms = _norm_parameter_names(model)
    undecayed, unadapted = _matching(no_decay, names, norms), _matching(no_trust_ratio, names, norms)
    return [
        ParameterRole(name, p.numel(), name not in undecayed, name not in unadapted)
        for name, p in _trainable(model)
    ]


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _matching(patterns: Sequence[str], names: list[str], norms: set[str]) -> set[str]:
    found = set()
    for pattern in patterns:
        matches = {name for name in names if _matches(name, pattern, norms)}
        if not matches and pattern not in KINDS:
            near = difflib.get_close_matches(pattern, [*KINDS, *names], n=3, cutoff=0.4)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"write {' or '.join(KINDS)}, or a pattern such as {names[-1]}"
            )
            raise ValueError(f"{pattern!r} names no trainable parameter of this model; {hint}")
        found |= matches
    return found


def _matches(name: str, pattern: str, norms: set[str]) -> bool:
    if pattern == "norm":
        return name in norms
    if pattern == "bias":
        return name.rpartition(".")[2] == "bias"
    return fnmatch.fnmatchcase(name, pattern)


def _norm_parameter_names(model: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if _is_norm(module)
        for name, _ in module.named_parameters(recurse=False)
    }


def _is_norm(module: nn.Module) -> bool:
    # By name, along the bases: torch's norms have no common base, and timm and users add their own (but a
    # NormFreeBlock is none).
    return any(re.search(r"norm(?!free)", base.__name__, re.IGNORECASE) for base in type(module).__mro__)
