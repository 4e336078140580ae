"""LARS and LAMB against the papers' formulas by hand, in float64, on both code paths (one fused call a layer;
multi-tensor).
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lbtrain.optim import LAMB, LARS
from lbtrain.optim import lamb as lamb_module
from lbtrain.optim import lars as lars_module

from . import formulas

RATES = [0.0, 0.3, 0.6, 2.0, 0.5]  # a warm-up, so that the two forms of momentum part


@pytest.fixture(params=["fused", "foreach"])
def path(request, monkeypatch):
    if request.param == "foreach":
        monkeypatch.setattr(lars_module, "_fusable", lambda *arguments: False)
        monkeypatch.setattr(lamb_module, "_fusable", lambda *tensors: False)
    return request.param


def layers() -> list[nn.Parameter]:
    torch.manual_seed(0)
    shapes = [(7, 3, 3, 3), (1,), (5, 11), ()]
    return [
        nn.Parameter(torch.randn(shape, dtype=torch.float64) * 10.0**place)
        for place, shape in enumerate(shapes)
    ]


def gradients(step: int, like: list[nn.Parameter]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in like]


def run(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rates: Sequence[float] = RATES
) -> list[Tensor]:
    for step, lr in enumerate(rates):
        for parameter, gradient in zip(parameters, gradients(step, parameters), strict=True):
            parameter.grad = gradient
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("wd", [0.0, 0.05])
@pytest.mark.parametrize("form", formulas.LARS_FORMS)
def test_lars(path, form, wd):
    parameters, eta, m = layers(), 0.02, 0.9
    expected, step_of = [p.detach().clone() for p in parameters], formulas.LARS_FORMS[form]
    buffers = [torch.zeros_like(w) for w in expected]
    for step, lr in enumerate(RATES):
        for i, g in enumerate(gradients(step, parameters)):
            ratio = formulas.lars_ratio(expected[i], g, eta=eta, wd=wd)
            expected[i], buffers[i] = step_of(expected[i], g, buffers[i], lr=lr, m=m, wd=wd, ratio=ratio)
    optimizer = LARS(
        parameters, lr=0.0, momentum=m, weight_decay=wd, trust_coefficient=eta, eps=0.0, momentum_scaling=form
    )
    torch.testing.assert_close(run(optimizer, parameters), expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize(("form", "rates"), [("trust_ratio", RATES), ("lr_and_trust_ratio", [0.3] * 5)])
def test_lars_nesterov_forms_agree_with_torch_where_ratio_is_one(form, rates):
    """In a group that is not adapted LARS is torch's SGD, Nesterov included (outside form), and so it is
    (inside) at a constant rate.
    """
    ours, theirs = layers(), layers()
    optimizer = LARS(
        [{"params": ours, "use_trust_ratio": False}],
        lr=0.0,
        momentum=0.9,
        weight_decay=0.01,
        nesterov=True,
        momentum_scaling=form,
    )
    sgd = torch.optim.SGD(theirs, lr=0.0, momentum=0.9, weight_decay=0.01, nesterov=True)
    expected = run(sgd, theirs, rates)
    torch.testing.assert_close(run(optimizer, ours, rates), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", formulas.LARS_FORMS)
def test_nesterov_by_hand(path, form):
    w, g, lr, m, wd, eta = (
        torch.tensor([3.0, 4.0]).double(),
        torch.tensor([0.6, -0.8]).double(),
        0.5,
        0.9,
        0.1,
        0.01,
    )
    parameter = nn.Parameter(w.clone())
    optimizer = LARS(
        [parameter],
        lr=lr,
        momentum=m,
        weight_decay=wd,
        trust_coefficient=eta,
        eps=0,
        nesterov=True,
        momentum_scaling=form,
    )
    buffer, expected = torch.zeros_like(w), w
    for _ in range(3):
        ratio = formulas.lars_ratio(expected, g, eta=eta, wd=wd)
        gain, rate = {
            "lr_and_trust_ratio": (lr * ratio, 1.0), "trust_ratio": (ratio, lr), "none": (1.0, lr * ratio),
        }[form]  # fmt: skip
        term = gain * (g + wd * expected)
        buffer = m * buffer + term
        expected = expected - rate * (m * buffer + term)
        parameter.grad = g.clone()
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=0)


def test_momentum_correction():
    """Goyal et al. 2017, remark 2: scaling the buffer by lr_new / lr_old makes the inside form the outside
    form.
    """
    inside, outside = layers(), layers()
    corrected = LARS(inside, lr=0.0, weight_decay=0.05, momentum_scaling="lr_and_trust_ratio")
    plain = LARS(outside, lr=0.0, weight_decay=0.05, momentum_scaling="trust_ratio")
    previous = 0.0
    for step, lr in enumerate(RATES[1:]):
        for group in (corrected.param_groups[0], plain.param_groups[0]):
            group["lr"] = lr
        for pair in zip(inside, outside, gradients(step, inside), strict=True):
            pair[0].grad = pair[1].grad = pair[2]
        if previous:
            for state in corrected.state.values():
                state["momentum_buffer"].mul_(lr / previous)
        previous = lr
        corrected.step()
        plain.step()
    torch.testing.assert_close(inside, outside, rtol=1e-11, atol=0)


def test_trust_clip_and_larc():
    w, g = (
        torch.full((4,), 5.0, dtype=torch.float64),
        torch.full((4,), 0.01, dtype=torch.float64),
    )  # |w| / |g| = 500
    for options, ratio in [({"trust_clip": 0.3}, 0.3), ({"larc_clip": True}, 1.0), ({}, 0.5)]:
        parameter = nn.Parameter(w.clone())
        parameter.grad = g.clone()
        LARS([parameter], lr=0.2, momentum=0.0, eps=0.0, **options).step()
        torch.testing.assert_close(parameter.detach(), w - 0.2 * ratio * g, rtol=1e-12, atol=0)


def test_clip_value_limits_the_decayed_gradient(path):
    """Elements of g + wd * w; the norms of the ratio are those before."""
    w, g = torch.tensor([3.0, 4.0]).double(), torch.tensor([20.0, -0.5]).double()
    parameter = nn.Parameter(w.clone())
    parameter.grad = g.clone()
    options = {"trust_coefficient": 0.01, "eps": 0.0, "weight_decay": 0.1, "momentum_scaling": "none"}
    optimizer = LARS([parameter], lr=0.5, clip_value=10.0, **options)
    optimizer.step()
    ratio = formulas.lars_ratio(w, g, eta=0.01, wd=0.1)
    expected = w - 0.5 * ratio * torch.tensor([10.0, -0.1], dtype=torch.float64)
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=0)
    assert torch.equal(parameter.grad, g)


@pytest.mark.parametrize("lr,larc_ratio", [(0.4, 1.0), (0.5, 1.0), (1.0, 0.5), (5.0, 0.1)])
def test_larc_never_steps_above_the_layer_rate(lr, larc_ratio):
    parameter = nn.Parameter(torch.full((4,), 5.0, dtype=torch.float64))
    parameter.grad = torch.full((4,), 0.01, dtype=torch.float64)
    LARS([parameter], lr=lr, momentum=0.0, eps=0.0, larc_clip=True).step()
    torch.testing.assert_close(
        parameter.detach(),
        5.0 - lr * larc_ratio * torch.full((4,), 0.01, dtype=torch.float64),
        rtol=1e-12,
        atol=0,
    )


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("wd", [0.0, 0.05])
def test_lamb(path, wd, corrected):
    parameters, options = layers(), {"b1": 0.8, "b2": 0.95, "eps": 1e-6, "wd": wd, "corrected": corrected}
    expected = [p.detach().clone() for p in parameters]
    a, c = [torch.zeros_like(w) for w in expected], [torch.zeros_like(w) for w in expected]
    for step, lr in enumerate(RATES):
        for i, g in enumerate(gradients(step, parameters)):
            expected[i], a[i], c[i], _ = formulas.lamb(expected[i], g, a[i], c[i], step + 1, lr=lr, **options)
    optimizer = LAMB(
        parameters, lr=0.0, betas=(0.8, 0.95), eps=1e-6, weight_decay=wd, bias_correction=corrected
    )
    torch.testing.assert_close(run(optimizer, parameters), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close([optimizer.state[p]["exp_avg_sq"] for p in parameters], c, rtol=1e-12, atol=0)


def test_lamb_trust_clip():
    w, g = torch.full((4,), 5.0, dtype=torch.float64), torch.full((4,), 0.01, dtype=torch.float64)
    for clip in (0.0, 2.0):
        parameter = nn.Parameter(w.clone())
        parameter.grad = g.clone()
        LAMB([parameter], lr=0.1, eps=1e-12, trust_clip=clip).step()
        ratio = 2.0 if clip else 5.0  # the direction is 1 in every element, the weights 5
        torch.testing.assert_close(parameter.detach(), w - 0.1 * ratio, rtol=1e-8, atol=0)


def test_lamb_without_adaptation_is_adamw():
    ours, theirs = layers(), layers()
    expected = run(torch.optim.AdamW(theirs, lr=0.0, weight_decay=0.01, eps=1e-6), theirs)
    optimizer = LAMB([{"params": ours, "use_trust_ratio": False}], lr=0.0, weight_decay=0.01, eps=1e-6)
    torch.testing.assert_close(run(optimizer, ours), expected, rtol=1e-9, atol=1e-12)


def test_lars_of_the_mlperf_reference_is_lars_with_the_rate_in_the_buffer():
    """Over five steps with changing rates; its epsilon of 0 is replaced by Keras's 1e-7."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64, generator=generator))
    settings = dict(wd=2e-4, m=0.9, eta=0.001, eps=1e-7)
    optimizer = LARS([weight], lr=0.0, momentum=0.9, weight_decay=2e-4, trust_coefficient=0.001, eps=1e-7)
    w, v = weight.detach().clone(), torch.zeros_like(weight)
    for lr in (0.0, 4.0, 17.0, 9.0, 1e-4):
        gradient = torch.randn(4, 3, dtype=torch.float64, generator=generator)
        w, v = formulas.lars_of_mlperf(w, gradient, v, lr=lr, **settings)
        weight.grad, optimizer.param_groups[0]["lr"] = gradient, lr
        optimizer.step()
        torch.testing.assert_close(weight.detach(), w, rtol=1e-12, atol=0)
