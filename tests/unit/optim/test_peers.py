"""Where our LARS and LAMB agree with timm's, NVIDIA apex's and ColossalAI's, and where they do not: each
difference is held here.

timm runs in the test. apex (LARC, FusedLAMB) and ColossalAI (Lars, Lamb) are not installed: their formulas
are written out by hand. The same list, for readers, stands in docs/optimizers.md.
"""

import pytest
import timm.optim
import torch
from torch import Tensor, nn

from lbtrain.optim import LAMB, LARS

from .formulas import norm

ETA, WD, M = 0.02, 0.05, 0.9
F64 = torch.float64


def start() -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    return torch.randn(9, 7, dtype=F64), [torch.randn(9, 7, dtype=F64) * 10.0**-step for step in range(3)]


def train(make, w: Tensor, gradients: list[Tensor], rates=(0.1, 0.4, 0.2)) -> Tensor:
    parameter = nn.Parameter(w.clone())
    optimizer = make([parameter])
    for g, lr in zip(gradients, rates, strict=False):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = g.clone()
        optimizer.step()
    return parameter.detach()


def ours(**options):
    options = {"weight_decay": WD, "eps": 0, "momentum_scaling": "trust_ratio"} | options
    return lambda params: LARS(params, lr=0.0, trust_coefficient=ETA, **options)


def timm_lars(**options):
    return lambda params: timm.optim.Lars(
        params, momentum=M, trust_coeff=ETA, **({"weight_decay": WD, "eps": 0} | options)
    )


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("clip", [True, False])
def test_timm_lars_agrees(foreach, clip):
    """With weight decay, momentum outside, no Nesterov; `trust_clip` there is our `larc_clip`."""
    w, gradients = start()
    assert same(
        train(ours(larc_clip=clip), w, gradients),
        train(timm_lars(foreach=foreach, trust_clip=clip), w, gradients),
    )


def test_timm_lars_does_not_adapt_without_weight_decay():
    """There weight_decay=0 means ratio 1, a step 1 / ratio times ours, unless always_adapt."""
    w, g = start()
    step = w - train(ours(weight_decay=0.0), w, g[:1])
    theirs = w - train(timm_lars(weight_decay=0.0), w, g[:1])
    assert same(step, theirs * ETA * norm(w) / norm(g[0]))
    assert same(step, w - train(timm_lars(weight_decay=0.0, always_adapt=True), w, g[:1]))


def test_timm_lars_nesterov_enters_differently_from_inside_form_only():
    w, gradients = start()
    assert same(train(ours(nesterov=True), w, gradients), train(timm_lars(nesterov=True), w, gradients))
    assert not same(
        train(ours(nesterov=True, momentum_scaling="lr_and_trust_ratio"), w, gradients),
        train(timm_lars(nesterov=True), w, gradients),
    )


def test_timm_lars_decays_a_layer_without_gradient():
    w, g = start()
    zero = [torch.zeros_like(g[0])]
    assert torch.equal(train(ours(), w, zero), w)
    assert same(train(timm_lars(), w, zero), w * (1 - 0.1 * WD))


def our_lamb(**options):
    return lambda params: LAMB(params, lr=0.0, **({"weight_decay": WD} | options))


def timm_lamb(**options):
    return lambda params: timm.optim.Lamb(params, **({"weight_decay": WD, "max_grad_norm": None} | options))


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("corrected", [True, False])
def test_timm_lamb_agrees(foreach, corrected):
    """With weight decay, and without its own clipping of the global gradient norm."""
    w, gradients = start()
    theirs = train(timm_lamb(foreach=foreach, bias_correction=corrected), w, gradients)
    assert same(train(our_lamb(bias_correction=corrected), w, gradients), theirs)
    assert same(
        train(our_lamb(trust_clip=1.0), w * 9, gradients), train(timm_lamb(trust_clip=True), w * 9, gradients)
    )


def test_timm_lamb_clips_the_gradient_by_default():
    """timm and FusedLAMB scale all gradients to a global norm of 1; harmless in the first step, not in the
    second.
    """
    w, gradients = start()
    clipped = [g / max(1.0, norm(g)) for g in gradients]
    assert same(train(timm_lamb(max_grad_norm=1.0), w, gradients), train(our_lamb(), w, clipped))
    assert not same(train(timm_lamb(max_grad_norm=1.0), w, gradients), train(our_lamb(), w, gradients))


def test_timm_lamb_does_not_adapt_without_weight_decay():
    w, g = start()
    unadapted = train(lambda params: LAMB([{"params": params, "use_trust_ratio": False}], lr=0.0), w, g)
    assert same(train(timm_lamb(weight_decay=0.0), w, g), unadapted)
    assert same(
        train(timm_lamb(weight_decay=0.0, always_adapt=True), w, g), train(our_lamb(weight_decay=0.0), w, g)
    )


def test_timm_lamb_shrinks_a_layer_without_gradient_by_the_rate():
    """ratio = |w| / |wd * w| = 1 / wd: the layer loses lr of itself in every step. ZeRO hands zeros for
    missing gradients.
    """
    w, g = start()
    zero = [torch.zeros_like(g[0])]
    assert torch.equal(train(our_lamb(), w, zero), w)
    assert same(train(timm_lamb(), w, zero), w * (1 - 0.1))


def by_hand(w: Tensor, gradients: list[Tensor], rule, rates=(0.1, 0.4, 0.2)) -> Tensor:
    buffer = torch.zeros_like(w)
    for g, lr in zip(gradients, rates, strict=False):
        w, buffer = rule(w, g, buffer, lr)
    return w


def apex_larc(clip: bool):
    """apex.parallel.LARC around torch's SGD: decay and ratio go into the gradient, the optimizer does the
    rest.
    """

    def rule(w, g, buffer, lr):
        ratio = ETA * norm(w) / (norm(g) + WD * norm(w))
        buffer = M * buffer + (min(ratio / lr, 1.0) if clip else ratio) * (g + WD * w)
        return w - lr * buffer, buffer

    return rule


@pytest.mark.parametrize("clip", [True, False])
def test_apex_larc_agrees(clip):
    """Its defaults differ: trust coefficient 0.02, clipping on; and it adapts every parameter, biases and
    norms too.
    """
    w, gradients = start()
    assert same(train(ours(larc_clip=clip), w, gradients), by_hand(w, gradients, apex_larc(clip)))


def colossalai_lars(w, g, buffer, lr):
    """The ratio scales the whole buffer, old gradients included; ratio at most 50, every decayed gradient
    element in [-10, 10].
    """
    ratio = min(ETA * norm(w) / (norm(g) + WD * norm(w)), 50.0)
    buffer = M * buffer + (g + WD * w).clamp(-10, 10)
    return w - lr * ratio * buffer, buffer


def nus_lars(w, g, buffer, lr):
    """NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch: its epsilon (1e-5) beside the gradient's norm."""
    ratio = min(ETA * norm(w) / (norm(g) + WD * norm(w) + 1e-5), 50.0)
    buffer = M * buffer + (g + WD * w).clamp(-10, 10)
    return w - lr * ratio * buffer, buffer


@pytest.mark.parametrize(("peer", "eps"), [(colossalai_lars, 0.0), (nus_lars, 1e-5)])
def test_colossalai_and_nus_lars_agree(peer, eps):
    w, gradients = start()
    bounds = {"trust_clip": 50.0, "clip_value": 10.0, "eps": eps}
    assert not same(train(ours(**bounds), w, gradients), by_hand(w, gradients, peer))
    form = bounds | {"momentum_scaling": "none"}
    for scale in (1.0, 100.0, 1e-6):  # within the bounds, elements above 10, a ratio above 50
        scaled = [g * scale for g in gradients]
        expected = by_hand(w, scaled, peer)
        assert same(train(ours(**form), w, scaled), expected)
    large = [g * 100 for g in gradients]
    assert not same(train(ours(momentum_scaling="none", eps=eps), w, large), by_hand(w, large, peer))


def test_colossalai_lamb_agrees_without_bias_correction():
    """It leaves the correction out, always; its first step is ours within |w| and |u|, since the ratio takes
    the size out of u.
    """
    w, gradients = start()

    def rule(w, g, state, lr):
        a, c = state if isinstance(state, tuple) else (torch.zeros_like(w), torch.zeros_like(w))
        a, c = 0.9 * a + 0.1 * g, 0.999 * c + 0.001 * g * g
        u = a / (c.sqrt() + 1e-6) + WD * w
        return w - lr * norm(w) / norm(u) * u, (a, c)

    assert same(train(our_lamb(bias_correction=False), w, gradients), by_hand(w, gradients, rule))
    assert not same(train(our_lamb(), w, gradients), by_hand(w, gradients, rule))
