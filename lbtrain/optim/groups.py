"""Which parameters are decayed, which take a layer-wise step, and which are Muon's: independent filters.

Goyal et al. 2017 (section 5.1) do not decay the scale and shift of batch norm, and public LARS
implementations hold norm parameters and biases back from decay and trust ratio. So do both filters by
default, but a parameter may be decayed and not adapted, or the other way about.
"""

import difflib
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from lbtrain.nn.heads import head_names

KINDS = ("norm", "bias")


class ParameterRole(NamedTuple):
    """What the optimizer does with one parameter."""

    name: str
    numel: int
    decay: bool
    use_trust_ratio: bool
    use_muon: bool


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    no_decay: Sequence[str] = KINDS,
    no_trust_ratio: Sequence[str] = KINDS,
    no_muon: Sequence[str] | None = None,
    lr_scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters of `model` into torch parameter groups: decayed or not, with a trust
    ratio or not, and, where `no_muon` is given, Muon's or not.

    An entry of `no_decay` or `no_trust_ratio` is `norm` (every parameter of a normalisation layer), `bias`
    (every parameter called bias) or a pattern for whole parameter names (`head.*`). The groups carry
    `params`, `param_names`, `weight_decay`, `use_trust_ratio`, `lr_scale` (of `lr_scales`, by name) and
    `use_muon`; they keep the model's order; a tied parameter is in one group, once, under its first name.
    Works on a model on the meta device.
    """
    parameters, scales = dict(_trainable(model)), lr_scales or {}
    groups: dict[tuple[bool, bool, bool, float], dict[str, Any]] = {}
    roles = parameter_roles(model, no_decay=no_decay, no_trust_ratio=no_trust_ratio, no_muon=no_muon)
    for role in roles:
        scale = scales.get(role.name, 1.0)
        blank: dict[str, Any] = {
            "params": [],
            "param_names": [],
            "weight_decay": weight_decay if role.decay else 0.0,
            "use_trust_ratio": role.use_trust_ratio,
            "lr_scale": scale,
        }
        if no_muon is not None:
            blank["use_muon"] = role.use_muon
        group = groups.setdefault((role.use_muon, role.decay, role.use_trust_ratio, scale), blank)
        group["params"].append(parameters[role.name])
        group["param_names"].append(role.name)
    return [groups[key] for key in sorted(groups, reverse=True)]


def parameter_roles(
    model: nn.Module,
    *,
    no_decay: Sequence[str] = KINDS,
    no_trust_ratio: Sequence[str] = KINDS,
    no_muon: Sequence[str] | None = None,
) -> list[ParameterRole]:
    """List every trainable parameter in the model's order with what the filters say of it.

    Muon's (where `no_muon` is given) are the weights of linear layers and of convolutions in one group, but
    for those that an entry of `no_muon` names: `first` (the layer that sees the image), `head` (the
    classifier), or a pattern for whole names. Embeddings, grouped convolutions, norms, biases and other
    parameters are never Muon's (Jordan et al. 2024 leave them, the first layer and the head, to AdamW).
    """
    names = [name for name, _ in _trainable(model)]
    if not names:
        raise ValueError(
            "the model has no trainable parameter: nothing to optimize. Set requires_grad_(True) on some of "
            "them"
        )
    norms = _norm_parameter_names(model)
    undecayed, unadapted = _matching(no_decay, names, norms), _matching(no_trust_ratio, names, norms)
    muon = set() if no_muon is None else _muon_names(model, no_muon, names)
    return [
        ParameterRole(name, p.numel(), name not in undecayed, name not in unadapted, name in muon)
        for name, p in _trainable(model)
    ]


def _muon_names(model: nn.Module, no_muon: Sequence[str], names: list[str]) -> set[str]:
    """Names of the parameters that Muon steps."""
    layers = [
        (f"{prefix}.weight" if prefix else "weight", module)
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    ]
    kinds = {"first": {layers[0][0]} if layers else set(), "head": head_names(model)}
    excluded = set().union(*(kinds[entry] for entry in no_muon if entry in kinds))
    excluded |= _matching([entry for entry in no_muon if entry not in kinds], names, set())
    return {
        name
        for name, module in layers
        if name in names and name not in excluded and getattr(module, "groups", 1) == 1
        and 1 < module.weight.shape[0] < module.weight.numel()
    }  # fmt: skip


def layer_lr_scales(model: nn.Module, layer_decay: float, head_ratio: float) -> dict[str, float]:
    """By name, what the learning rate of each parameter is multiplied with, where it is not 1.

    `layer_decay` to the power of the number of layers between it and the classifier, the layers counted as
    timm's `param_groups_layer_decay` counts them; `head_ratio` for the classifier. Raises ValueError for a
    model that does not say which of its layers follow each other.
    """
    scales: dict[str, float] = {}
    if layer_decay != 1:
        from timm.optim import param_groups_layer_decay

        if not hasattr(model, "group_matcher"):
            raise ValueError(f"layer_decay={layer_decay} needs a model with group_matcher, as timm's have")
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for group in param_groups_layer_decay(model, weight_decay=0.0, layer_decay=layer_decay):
            scales |= {names[id(parameter)]: group["lr_scale"] for parameter in group["params"]}
    if head_ratio != 1:
        if not head_names(model):
            raise ValueError(f"head_lr_ratio={head_ratio} needs a model with get_classifier, as timm's have")
        scales |= {name: scales.get(name, 1.0) * head_ratio for name in head_names(model)}
    return scales


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
