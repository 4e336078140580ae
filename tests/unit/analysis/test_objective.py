"""Values, gradients and products against torch's own, and a model that is left as it was found."""

import copy

import pytest
import timm
import torch
from torch.func import functional_call
from torch.nn import functional as F

from lbtrain.analysis.objective import Objective, random_vector
from lbtrain.nn import convert_to_ghost_batch_norm
from tests.unit.analysis.curvatures import cross_entropy, small_batches, small_net


def whole_hessian(net, batch, batch_norm):
    """By torch.autograd.functional, from a copy in the mode asked for."""
    net = copy.deepcopy(net).eval()
    net[1].train(batch_norm == "batch")
    names = [name for name, _ in net.named_parameters()]
    sizes = [p.numel() for p in net.parameters()]

    def loss(flat):
        parts = {
            name: part.view(p.shape)
            for (name, p), part in zip(net.named_parameters(), flat.split(sizes), strict=True)
        }
        assert list(parts) == names
        return cross_entropy(lambda images: functional_call(net, parts, (images,)), batch)

    point = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    return (
        loss(point),
        torch.autograd.functional.jacobian(loss, point),
        torch.autograd.functional.hessian(loss, point),
    )


@pytest.mark.parametrize("batch_norm", ["batch", "eval"])
@pytest.mark.parametrize("keep_graphs", [False, True])
def test_the_product_is_that_of_torchs_whole_hessian(batch_norm, keep_graphs):
    net, batches = small_net(), small_batches(2)
    whole = [whole_hessian(net, batch, batch_norm) for batch in batches]
    hessian = (whole[0][2] + whole[1][2]) / 2
    objective = Objective(net, cross_entropy, batches, batch_norm=batch_norm, keep_graphs=keep_graphs)
    for seed in range(3):
        vector = random_vector(objective.size, seed=seed, device=objective.device)
        torch.testing.assert_close(objective.hessian_vector(vector), hessian @ vector, rtol=1e-4, atol=1e-5)
    value, gradient = objective.gradient()
    torch.testing.assert_close(gradient, (whole[0][1] + whole[1][1]) / 2)
    assert value == pytest.approx(float((whole[0][0] + whole[1][0]) / 2), rel=1e-6) == objective.value()


def test_the_modes_differ_so_that_the_test_above_can_fail():
    net, batches = small_net(), small_batches(1)
    assert Objective(net, cross_entropy, batches, batch_norm="batch").value() != pytest.approx(
        Objective(net, cross_entropy, batches, batch_norm="eval").value(), rel=1e-3
    )


@pytest.mark.parametrize("batch_norm", ["batch", "eval"])
@pytest.mark.parametrize("ghost_size", [0, 4])
def test_the_model_is_left_as_it_was_found(batch_norm, ghost_size):
    net, batches = small_net().train(), small_batches(1)
    if ghost_size:
        convert_to_ghost_batch_norm(net, ghost_size)
        net(batches[0][0])
    before, buffers, vector = (
        copy.deepcopy(net),
        dict(net.named_buffers()),
        torch.ones(sum(p.numel() for p in net.parameters())),
    )
    objective = Objective(net, cross_entropy, batches, batch_norm=batch_norm)
    objective.value(vector)
    objective.gradient(vector)
    objective.hessian_vector(vector)
    assert all(module.training for module in net.modules()) and all(p.grad is None for p in net.parameters())
    assert getattr(net[1], "ghosts_seen", None) == getattr(before[1], "ghosts_seen", None)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        assert torch.equal(tensor, dict([*before.named_parameters(), *before.named_buffers()])[name]), name
    assert all(buffer is buffers[name] for name, buffer in net.named_buffers())


def test_a_shift_is_a_move_of_the_parameters():
    net, batches = small_net(), small_batches(2)
    objective = Objective(net, cross_entropy, batches)
    shift = 0.1 * random_vector(objective.size, seed=3, device=objective.device)
    moved = copy.deepcopy(net)
    with torch.no_grad():
        for p, part in zip(moved.parameters(), objective.split(shift).values(), strict=True):
            p += part
    there = Objective(moved, cross_entropy, batches)
    assert objective.value(shift) == there.value()
    torch.testing.assert_close(objective.gradient(shift), there.gradient())


def test_what_cannot_be_measured_is_rejected():
    with pytest.raises(ValueError, match="no trainable parameter"):
        Objective(small_net().requires_grad_(False), cross_entropy, [])
    net = small_net()
    convert_to_ghost_batch_norm(net, 8)
    net[1].group = object()
    with pytest.raises(ValueError, match="cannot be differentiated twice"):
        Objective(net, cross_entropy, [], batch_norm="batch")
    Objective(net, cross_entropy, [], batch_norm="eval")


def test_batches_that_cannot_be_gone_through_again_are_rejected():
    """Sharpness would be 0 over none: a minimum that looks flat."""
    net = small_net()
    with pytest.raises(ValueError, match="iterator, which ends after one call: make a list"):
        Objective(net, cross_entropy, (batch for batch in small_batches(2)))
    empty = Objective(net, cross_entropy, [])
    for ask in (empty.value, empty.gradient, lambda: empty.hessian_vector(empty.point())):
        with pytest.raises(ValueError, match="no batch"):
            ask()


def test_weights_in_half_precision_are_not_moved():
    net = small_net().bfloat16()
    batches = [(images.bfloat16(), labels) for images, labels in small_batches(1)]
    objective = Objective(net, cross_entropy, batches)
    assert objective.value() > 0
    for ask in (objective.value, objective.gradient):
        with pytest.raises(ValueError, match=r"bfloat16, which rounds small shifts.*model\.float\(\)"):
            ask(torch.zeros(objective.size))


@pytest.mark.parametrize("keep_graphs", [False, True])
def test_a_vision_transformer_has_second_derivatives(keep_graphs):
    """Its fused attention has none; against the difference of two gradients."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=3, img_size=32, depth=1, embed_dim=12, num_heads=2
    ).double()
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    loss = lambda net, batch: F.cross_entropy(net(batch[0]), batch[1])  # noqa: E731
    objective = Objective(model, loss, [(images, labels)], keep_graphs=keep_graphs)
    direction = torch.randn(objective.size, dtype=torch.float64)
    direction /= direction.norm()
    step = 1e-2
    ahead, behind = (objective.gradient(sign * step * direction)[1] for sign in (1, -1))
    difference = (ahead - behind) / (2 * step)
    assert (objective.hessian_vector(direction) - difference).norm() < 1e-3 * difference.norm()
