"""Muon by hand in float64, and against torch's, timm's and Jordan et al.'s where the definitions agree."""

import copy
import math
import pickle

import pytest
import timm.optim
import torch
from torch import nn

from lbtrain.optim.muon import QUINTIC, Muon, newton_schulz
from lbtrain.optim.shared_work import deal

SHAPES = [(8, 8), (16, 4), (4, 16), (8, 4, 3, 3), (3, 5, 1, 1)]


def parameters(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]


def steps(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], count: int = 4) -> None:
    torch.manual_seed(1)
    for _ in range(count):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()


def by_hand(singular: float, count: int = 5) -> float:
    """What the iteration makes of one singular value: an odd polynomial, applied `count` times."""
    a, b, c = QUINTIC
    for _ in range(count):
        singular = a * singular + b * singular**3 + c * singular**5
    return singular


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_newton_schulz_acts_on_singular_values_alone(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    moved = torch.tensor([by_hand(float(x)) for x in s / (s.norm() + 1e-7)], dtype=torch.float64)
    torch.testing.assert_close(newton_schulz(matrix, 5), u @ moved.diag() @ v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("adjustment", ["original", "match_rms_adamw"])
def test_the_formula(nesterov, adjustment):
    ours, m, wd, lr = parameters(), 0.9, 0.1, 0.05
    weights, buffers = [w.detach().clone() for w in ours], [torch.zeros_like(w) for w in ours]
    optimizer = Muon(ours, lr, momentum=m, nesterov=nesterov, weight_decay=wd, rate_adjustment=adjustment)
    steps(optimizer, ours)
    torch.manual_seed(1)
    for _ in range(4):
        for row, shape in enumerate(SHAPES):
            gradient = torch.randn(shape, dtype=torch.float64)
            buffers[row] = m * buffers[row] + (1 - m) * gradient
            direction = m * buffers[row] + (1 - m) * gradient if nesterov else buffers[row]
            matrix = direction.reshape(shape[0], -1)
            rows, columns = matrix.shape
            u, s, v = torch.linalg.svd(matrix, full_matrices=False)
            s = torch.tensor([by_hand(float(x)) for x in s / (s.norm() + 1e-7)], dtype=torch.float64)
            scale = (
                math.sqrt(max(1, rows / columns))
                if adjustment == "original"
                else 0.2 * math.sqrt(max(rows, columns))
            )
            weights[row] = (1 - lr * wd) * weights[row] - lr * scale * (u @ s.diag() @ v).reshape(shape)
    for ours_, expected in zip(ours, weights, strict=True):
        torch.testing.assert_close(ours_.detach(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("adjustment", ["original", "match_rms_adamw"])
def test_torchs_muon_on_matrices(adjustment, monkeypatch):
    """The same steps, once its iteration, which runs in bf16, is made to run in float64 as ours does."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.double())
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((32, 16), (16, 32))]
    theirs = copy.deepcopy(ours)
    options = dict(lr=0.02, momentum=0.95, nesterov=True, weight_decay=0.1)
    steps(Muon(ours, rate_adjustment=adjustment, **options), ours)
    steps(torch.optim.Muon(theirs, adjust_lr_fn=adjustment, **options), theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_torchs_muon_rejects_what_ours_takes():
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([nn.Parameter(torch.randn(8, 4, 3, 3))], lr=0.1)


def test_the_scale_of_a_convolution_is_its_matrix_here_and_its_kernel_in_jordans_code():
    """There the factor is read from the last two dimensions: 1 for square kernels, 2 for this Linear's
    twin.
    """
    linear, conv = nn.Parameter(torch.randn(64, 16)), nn.Parameter(torch.randn(64, 16, 1, 1))
    with torch.no_grad():
        conv.copy_(linear.view(64, 16, 1, 1))
    before = linear.detach().clone()
    optimizer = Muon([linear, conv], 1.0, weight_decay=0.0)
    linear.grad = torch.randn(64, 16)
    conv.grad = linear.grad.view(64, 16, 1, 1).clone()
    optimizer.step()
    torch.testing.assert_close(linear.detach(), conv.detach().view(64, 16))
    step = (linear.detach() - before).norm() / math.sqrt(16)
    assert 1.5 < float(step) < 2.5  # singular values of about 1, times sqrt(64 / 16)


def test_timms_default_update_is_about_five_times_ours():
    torch.manual_seed(0)
    ours = nn.Parameter(torch.zeros(512, 512))
    theirs, gradient = copy.deepcopy(ours), torch.randn(512, 512)
    for weight, optimizer in ((ours, Muon([ours], 1.0)), (theirs, timm.optim.Muon([theirs], 1.0))):
        weight.grad = gradient.clone()
        optimizer.step()
    assert 4.3 < float(theirs.detach().norm() / ours.detach().norm()) < 5.3


def test_other_parameters_are_adamws():
    ours = [
        nn.Parameter(torch.randn(5, dtype=torch.float64)),
        nn.Parameter(torch.randn(4, 3, dtype=torch.float64)),
    ]
    theirs = copy.deepcopy(ours)
    group = dict(params=ours, use_muon=False)
    steps(Muon([group], 0.01, weight_decay=0.1, betas=(0.8, 0.99), eps=1e-6), ours)
    steps(torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1, betas=(0.8, 0.99), eps=1e-6), theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=0)


def test_no_gradient_is_a_gradient_of_zeros():
    with_none, with_zeros = parameters(), parameters()
    for weights, gradient in ((with_none, None), (with_zeros, 0.0)):
        optimizer = Muon(weights, 0.1, weight_decay=0.1)
        steps(optimizer, weights, 2)
        for weight in weights:
            weight.grad = None if gradient is None else torch.zeros_like(weight)
        optimizer.step()
    for one, other in zip(with_none, with_zeros, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_vector_is_no_matrix():
    with pytest.raises(ValueError, match="is not a matrix"):
        Muon([nn.Parameter(torch.randn(3))], 0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1},
        {"momentum": 1},
        {"newton_schulz_steps": 0},
        {"rate_adjustment": "other"},
        {"betas": (1, 0.9)},
    ],
)
def test_values_out_of_range(options):
    with pytest.raises(ValueError, match=r"out of range|not known"):
        Muon([nn.Parameter(torch.randn(3, 3))], **{"lr": 0.1} | options)


def test_a_pickled_or_loaded_one_goes_on_alike():
    whole, stopped = parameters(), parameters()
    first = Muon(whole, 0.1)
    steps(first, whole, 2)
    second = Muon(stopped, 0.1)
    steps(second, stopped, 2)
    third = Muon(stopped, 0.1)
    third.load_state_dict(pickle.loads(pickle.dumps(second.state_dict())))
    steps(first, whole)
    steps(third, stopped)
    for one, other in zip(whole, stopped, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_copy_steps_alike():
    ours = parameters()
    optimizer = Muon(ours, 0.1, dtype=torch.float32)
    steps(optimizer, ours, 2)
    twin = copy.deepcopy(optimizer)
    theirs = twin.param_groups[0]["params"]
    steps(optimizer, ours)
    steps(twin, theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_work_is_dealt_by_cost():
    assert deal([1, 8, 4, 4], 2) == [0, 0, 1, 1]
    assert deal([5], 4) == [0] and deal([], 2) == []
