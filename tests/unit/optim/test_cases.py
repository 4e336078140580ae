"""The cases that the papers leave open, skipped steps, states, and what is refused. The answers stand in
layerwise.py.
"""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from lbtrain.optim import LAMB, LARS, UnsupportedSharding, parameter_groups

BOTH = [LARS, LAMB]


def one_layer(optimizer, w: Tensor, g: Tensor | None, **options):
    parameter = nn.Parameter(w.clone())
    parameter.grad = None if g is None else g.clone()
    options = {"lr": 0.1, "weight_decay": 0.01} | options
    made = optimizer([parameter], **options)
    made.step()
    return parameter.detach(), made.state[parameter], made, parameter


@pytest.mark.parametrize("optimizer", BOTH)
def test_zero_weights_step_with_ratio_one(optimizer):
    g = torch.tensor([3.0, -4.0])
    w, *_ = one_layer(optimizer, torch.zeros(2), g)
    direction = g if optimizer is LARS else g.sign()
    torch.testing.assert_close(w, -0.1 * direction, rtol=1e-5, atol=0)


@pytest.mark.parametrize("optimizer", BOTH)
@pytest.mark.parametrize("use_trust_ratio", [True, False])
@pytest.mark.parametrize("gradient", [None, torch.zeros(2)], ids=["none", "zero"])
def test_a_layer_without_gradient_stays(optimizer, use_trust_ratio, gradient):
    _, state, made, parameter = one_layer(optimizer, torch.tensor([3.0, 4.0]), gradient)
    made.param_groups[0]["use_trust_ratio"] = use_trust_ratio
    for _ in range(3):
        made.step()
    assert parameter.tolist() == [3.0, 4.0]
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("optimizer", BOTH)
def test_none_and_zero_gradients_are_one_case(optimizer):
    """Also for a layer that had a gradient before: ZeRO hands zeros where DDP has None."""
    results = []
    for missing in (None, torch.zeros(2)):
        _, _, made, parameter = one_layer(optimizer, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]))
        parameter.grad = missing
        made.step()
        results.append([parameter.detach().clone(), *made.state[parameter].values()])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_a_layer_without_gradient_is_not_decayed_in_an_unscaled_buffer():
    options = {"momentum": 0.5, "momentum_scaling": "none"}
    w, state, made, parameter = one_layer(LARS, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), **options)
    before = state["momentum_buffer"].clone()
    parameter.grad = None
    made.step()
    assert torch.equal(parameter.detach(), w) and torch.equal(state["momentum_buffer"], before / 2)


def test_momentum_coasts_without_gradient():
    w, _, made, parameter = one_layer(LARS, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), momentum=0.5)
    first = torch.tensor([3.0, 4.0]) - w
    parameter.grad = None
    before = parameter.detach().clone()
    made.step()
    torch.testing.assert_close(before - parameter.detach(), 0.5 * first)


@pytest.mark.parametrize("optimizer", BOTH)
def test_frozen_layers_are_left_alone(optimizer):
    parameter = nn.Parameter(torch.ones(2), requires_grad=False)
    other = nn.Parameter(torch.ones(2))
    other.grad = torch.ones(2)
    made = optimizer([parameter, other], lr=0.1)
    made.step()
    assert parameter.tolist() == [1.0, 1.0] and parameter not in made.state


@pytest.mark.parametrize("optimizer", BOTH)
def test_no_weight_decay_is_adapted_all_the_same(optimizer):
    for scale in (1.0, 1000.0):  # a layer-wise step does not depend on the size of the gradient
        w, *_ = one_layer(
            optimizer, torch.tensor([3.0, 4.0]), scale * torch.tensor([0.6, 0.8]), weight_decay=0.0
        )
        size = 0.1 * 5 * (0.001 if optimizer is LARS else 1.0)
        assert math.isclose(float((w - torch.tensor([3.0, 4.0])).norm()), size, rel_tol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"momentum_scaling": form} for form in ("lr_and_trust_ratio", "trust_ratio", "none")]
    + [{"larc_clip": True}],
)
def test_lars_at_lr_zero(options):
    w, state, *_ = one_layer(LARS, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), lr=0.0, **options)
    assert w.tolist() == [3.0, 4.0]
    assert (state["momentum_buffer"].norm() > 0) == (
        options.get("momentum_scaling") in ("trust_ratio", "none")
    )


@pytest.mark.parametrize(
    ("form", "stays"), [("lr_and_trust_ratio", False), ("trust_ratio", True), ("none", True)]
)
def test_lars_at_lr_zero_after_a_step(form, stays):
    """With the rate inside the buffer (algorithm 1), what is in it goes on to move the weights."""
    w, _, made, _ = one_layer(LARS, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), momentum_scaling=form)
    before = w.clone()
    made.param_groups[0]["lr"] = 0.0
    made.step()
    assert torch.equal(w, before) == stays


def test_lamb_at_lr_zero():
    w, state, *_ = one_layer(LAMB, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), lr=0.0)
    assert w.tolist() == [3.0, 4.0] and state["step"] == 1 and state["exp_avg"].norm() > 0


@pytest.mark.parametrize("optimizer", BOTH)
def test_a_step_that_the_loss_scaler_skips_changes_nothing(optimizer):
    _, state, made, parameter = one_layer(optimizer, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for gradient, moves in [([math.inf, 1.0], False), ([1.0, 1.0], True)]:
        before = copy.deepcopy((parameter.detach(), state))
        made.zero_grad()
        scaler.scale((parameter * torch.tensor(gradient)).sum()).backward()
        scaler.step(made)
        scaler.update()
        assert torch.equal(before[0], parameter.detach()) != moves
        assert all(torch.equal(before[1][key], state[key]) != moves for key in state)


@pytest.mark.parametrize("optimizer", BOTH)
def test_half_weights(optimizer):
    """Norms of half-precision tensors are taken in single precision: 1e5 elements of 0.1 sum beyond bf16 and
    fp16.
    """
    for dtype in (torch.bfloat16, torch.float16):
        w, g = torch.full((100_000,), 3.0), torch.full((100_000,), 0.1)
        half, *_ = one_layer(optimizer, w.to(dtype), g.to(dtype), weight_decay=0.0)
        full, *_ = one_layer(optimizer, w, g.to(dtype).float(), weight_decay=0.0)
        torch.testing.assert_close(
            half.float(), full, rtol=2**-8 if dtype == torch.bfloat16 else 2**-10, atol=0
        )


@pytest.mark.parametrize("optimizer", BOTH)
def test_channels_last_and_transposed_weights(optimizer):
    """Memory order is no difference, also where weights, gradient and state disagree on it."""
    torch.manual_seed(0)
    w, g = torch.randn(6, 5, 3, 3), torch.randn(6, 5, 3, 3)
    plain, *_ = one_layer(optimizer, w, g)
    last = torch.channels_last
    for weights, gradient in [
        (w.to(memory_format=last), g.to(memory_format=last)),
        (w.to(memory_format=last), g),
    ]:
        other, *_ = one_layer(optimizer, weights, gradient)
        torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-6)
    turned, *_ = one_layer(optimizer, w.transpose(0, 1), g.transpose(0, 1))
    torch.testing.assert_close(turned.transpose(0, 1), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", BOTH)
def test_large_layers_are_cut_into_pieces_and_many_layers_into_rounds(optimizer):
    torch.manual_seed(0)
    sizes = [700_001, 3, 400_000, 65536, 65537, 900_000, 1]
    whole = [nn.Parameter(torch.randn(n)) for n in sizes]
    alone = [nn.Parameter(p.detach().clone()) for p in whole]
    for p, q in zip(whole, alone, strict=True):
        p.grad = q.grad = torch.randn(p.shape)
    optimizer(whole, lr=0.1).step()
    for q in alone:
        optimizer([q], lr=0.1).step()
    torch.testing.assert_close(whole, alone, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", BOTH)
@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_state_survives(optimizer, how):
    """Conventional names; a copy goes on as the original does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    made = optimizer(parameter_groups(model, weight_decay=0.1), lr=0.1)

    def steps(model, made):
        for _ in range(3):
            made.zero_grad()
            model(torch.arange(8.0).view(2, 4)).square().sum().backward()
            made.step()

    steps(model, made)
    names = {"momentum_buffer"} if optimizer is LARS else {"step", "exp_avg", "exp_avg_sq"}
    assert all(state.keys() == names for state in made.state_dict()["state"].values())
    if how == "state_dict":
        other = copy.deepcopy(model)
        again = optimizer(parameter_groups(other, weight_decay=0.0), lr=3.0)
        again.load_state_dict(copy.deepcopy(made.state_dict()))  # torch shares the tensors otherwise
    elif how == "deepcopy":
        other, again = copy.deepcopy((model, made))
    else:
        other, again = pickle.loads(pickle.dumps((model, made)))
    steps(model, made)
    steps(other, again)
    torch.testing.assert_close(list(other.parameters()), list(model.parameters()), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", BOTH)
def test_a_tensor_rate_is_read_at_every_step(optimizer):
    results = []
    for lr in (0.3, torch.tensor(0.3)):
        w, *_ = one_layer(optimizer, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), lr=lr)
        results.append(w)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("optimizer", BOTH)
def test_rosenbrock(optimizer):
    """The banana valley, from (1.5, 1.5) down: the loss falls to a hundredth under a decaying rate."""
    point = nn.Parameter(torch.tensor([1.5, 1.5]))
    made = optimizer(
        [point], lr=0.0, **({"trust_coefficient": 1.0} if optimizer is LARS else {"betas": (0.9, 0.99)})
    )

    def valley() -> Tensor:
        x, y = point
        return (1 - x) ** 2 + (y - x * x) ** 2

    start = valley().item()
    for step in range(300):
        made.param_groups[0]["lr"] = 0.02 * (1 - step / 300)
        made.zero_grad()
        valley().backward()
        made.step()
    assert valley().item() < start / 100


@pytest.mark.parametrize("optimizer", BOTH)
def test_a_flattened_parameter_is_rejected(optimizer):
    """What DeepSpeed does to the groups of an optimizer that nobody bound."""
    model = nn.Linear(4, 3)
    made = optimizer(model.parameters(), lr=0.1)
    flat = torch.cat([p.detach().flatten() for p in model.parameters()]).requires_grad_()
    flat.grad = torch.ones_like(flat)
    made.param_groups[0]["params"] = [flat]
    with pytest.raises(UnsupportedSharding, match="bind_deepspeed"):
        made.step()
    assert not made.state and issubclass(UnsupportedSharding, ValueError)


@pytest.mark.parametrize(
    "optimizer,options,words",
    [
        (LARS, {"lr": -1.0}, "lr=-1.0"),
        (LARS, {"momentum": 1.0}, "momentum=1.0"),
        (LARS, {"trust_coefficient": 0.0}, "above 0"),
        (LARS, {"momentum_scaling": "middle"}, "lr_and_trust_ratio"),
        (LARS, {"clip_value": -1.0}, "clip_value=-1.0"),
        (LARS, {"nesterov": True, "momentum": 0.0}, "nesterov"),
        (LAMB, {"betas": (0.9, 1.0)}, r"betas\[1\]=1.0"),
        (LAMB, {"eps": 0.0}, "eps=0.0"),
    ],
)
def test_values_out_of_range(optimizer, options, words):
    with pytest.raises(ValueError, match=words):
        optimizer([nn.Parameter(torch.ones(2))], **({"lr": 0.1} | options))


def test_sparse_gradients_are_rejected():
    table = nn.Embedding(4, 3, sparse=True)
    made = LARS(table.parameters(), lr=0.1)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse gradient"):
        made.step()
