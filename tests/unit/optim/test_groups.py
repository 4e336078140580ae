import pytest
import timm
import torch
from torch import nn

from lbtrain.optim import create_optimizer, parameter_groups, parameter_roles
from lbtrain.recipe import OptimizerConfig


def by_name(groups):
    return {
        name: (group["weight_decay"], group["use_trust_ratio"])
        for group in groups
        for name in group["param_names"]
    }


def test_defaults_hold_back_norms_and_biases():
    model = timm.create_model("resnet18")
    groups = parameter_groups(model, weight_decay=5e-5)
    assert [(g["weight_decay"], g["use_trust_ratio"], len(g["params"])) for g in groups] == [
        (5e-5, True, 21),
        (0.0, False, 41),
    ]
    assert by_name(groups)["bn1.weight"] == by_name(groups)["fc.bias"] == (0.0, False)
    names = dict(model.named_parameters())
    assert all(
        names[name] is p for g in groups for name, p in zip(g["param_names"], g["params"], strict=True)
    )


def test_filters_are_separate():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = by_name(
        parameter_groups(model, weight_decay=0.1, no_decay=["norm"], no_trust_ratio=["bias", "0.weight"])
    )
    assert groups == {
        "0.weight": (0.1, False),
        "0.bias": (0.1, False),
        "1.weight": (0.0, True),
        "1.bias": (0.0, False),
    }
    assert by_name(
        parameter_groups(model, weight_decay=0.1, no_decay=[], no_trust_ratio=[])
    ) == dict.fromkeys(groups, (0.1, True))


def test_tied_and_frozen_parameters():
    model = nn.Sequential(
        nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    )
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(False)
    assert list(by_name(parameter_groups(model, weight_decay=0.1))) == ["0.weight"]


def test_meta_device_and_counts():
    with torch.device("meta"):
        model = timm.create_model("resnet50")
    roles = parameter_roles(model)
    assert sum(role.numel for role in roles) == 25_557_032
    assert sum(role.numel for role in roles if not role.decay) == 53_120 + 1000
    assert [r.name for r in roles] == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0", "nf_resnet26"])
def test_timms_norm_layers_are_found(name):
    """A norm layer's parameters are vectors, and no other module's weight is taken for one."""
    with torch.device("meta"):
        model = timm.create_model(name)
    roles = {role.name: role for role in parameter_roles(model, no_decay=["norm"])}
    for prefix, module in model.named_modules():
        is_norm = isinstance(module, nn.LayerNorm | nn.BatchNorm2d | nn.GroupNorm)
        for child, _ in module.named_parameters(recurse=False):
            assert roles[f"{prefix}.{child}".lstrip(".")].decay != is_norm


def test_a_pattern_that_names_nothing_is_rejected():
    with pytest.raises(ValueError, match=r"'nrom' names no trainable parameter.*did you mean norm"):
        parameter_groups(nn.Linear(2, 2), weight_decay=0.1, no_decay=["nrom"])
    assert (
        len(parameter_groups(nn.Linear(2, 2, bias=False), weight_decay=0.1)) == 1
    )  # no norm, no bias: nothing to say
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(nn.ReLU(), weight_decay=0.1)


@pytest.mark.parametrize("name", ["sgd", "lars", "lamb"])
def test_create_optimizer(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    config = OptimizerConfig(
        name=name, weight_decay=0.3, trust_clip=2.0, beta1=0.7, nesterov=True, momentum_scaling="trust_ratio",
        clip_value=3.0,
    )  # fmt: skip
    optimizer = create_optimizer(config, model)
    assert type(optimizer).__name__ == name.upper()
    assert [(g["lr"], g["weight_decay"], g["use_trust_ratio"]) for g in optimizer.param_groups] == [
        (0.0, 0.3, True),
        (0.0, 0.0, False),
    ]
    expected = {
        "sgd": {"nesterov": True},
        "lars": {"trust_clip": 2.0, "momentum_scaling": "trust_ratio", "clip_value": 3.0},
        "lamb": {"betas": (0.7, 0.999)},
    }
    assert expected[name].items() <= optimizer.param_groups[0].items()
