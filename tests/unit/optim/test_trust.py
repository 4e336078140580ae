import math

import pytest
import timm
import torch
from torch import nn

from lbtrain.optim import LAMB, LARS, parameter_groups, trust_ratios, trust_summary, weight_gradient_ratios

from .formulas import lars_ratio


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3), nn.Linear(3, 2))
    model[:3](torch.randn(5, 4)).square().sum().backward()
    return model


def test_ratios_of_the_last_step(model):
    optimizer = LARS(parameter_groups(model, weight_decay=0.1), lr=0.1, eps=0)
    assert trust_ratios(optimizer) == {} and trust_summary(optimizer) is None
    expected = {
        name: lars_ratio(p, p.grad, eta=0.001, wd=0.1)
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    optimizer.step()
    ratios = trust_ratios(optimizer)
    assert list(ratios) == ["0.weight", "2.weight", "3.weight"]  # the adapted ones
    assert ratios["3.weight"] == 0.0  # no gradient
    assert all(math.isclose(ratios[name], expected[name], rel_tol=1e-6) for name in ("0.weight", "2.weight"))
    summary = trust_summary(optimizer)
    assert (summary.min, summary.median, summary.max) == (0.0, *sorted(ratios.values())[1:])


def test_other_optimizers_have_none(model):
    assert trust_ratios(torch.optim.SGD(model.parameters(), lr=0.1)) == {}
    optimizer = LAMB([{"params": model.parameters(), "use_trust_ratio": False}], lr=0.1)
    optimizer.step()
    assert trust_summary(optimizer) is None


def test_table_2_in_shape():
    """Norms of weights and biases apart, in the model's order; the ratios of an untrained net differ many
    times.
    """
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10, zero_init_last=False)
    nn.functional.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.tensor([1, 2])).backward()
    rows = weight_gradient_ratios(model)
    assert [row.name for row in rows] == [name for name, _ in model.named_parameters()]
    parameters = dict(model.named_parameters())
    for row in rows:
        w, g = parameters[row.name].double().norm().item(), parameters[row.name].grad.double().norm().item()
        assert math.isclose(row.weight_norm, w, rel_tol=1e-6) and math.isclose(
            row.gradient_norm, g, rel_tol=1e-6
        )
        assert row.ratio == math.inf if g == 0 else math.isclose(row.ratio, w / g, rel_tol=1e-5)
    convolutions = [row.ratio for row in rows if "conv" in row.name and math.isfinite(row.ratio)]
    assert max(convolutions) > 5 * min(convolutions)


def test_without_gradients_there_is_no_table():
    with pytest.raises(ValueError, match=r"loss\.backward"):
        weight_gradient_ratios(nn.Linear(2, 2))
