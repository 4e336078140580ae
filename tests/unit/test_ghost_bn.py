"""Ghost batch norm against a loop over chunks of plain nn.BatchNorm2d."""

import copy

import pytest
import timm
import torch
from timm.layers import (
    BatchNormAct2d,
    EvoNorm2dB0,
    EvoNorm2dB1,
    EvoNorm2dB2,
    EvoNorm2dS0,
    FilterResponseNormAct2d,
    FrozenBatchNormAct2d,
    ScaledStdConv2d,
    SplitBatchNorm2d,
    SyncBatchNormAct,
)
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from lbtrain.nn import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostStatistics,
    check_batch_statistics,
    convert_to_ghost_batch_norm,
    regroup_ghost_batches,
)
from lbtrain.plan.plan import make_plan
from lbtrain.recipe import Recipe

EXACT = dict(rtol=1e-12, atol=1e-12)


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 4, 5, generator=generator, dtype=torch.float64) * 2 + 1


def plain_layer() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(3, momentum=0.3, eps=1e-3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        layer.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
        layer.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    return layer


def by_hand(
    layer: nn.BatchNorm2d, micro_batches: list[Tensor], ghost: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Outputs chunk by chunk, and the running statistics that one step leaves: momentum times the plain
    average over all chunks.
    """
    outputs, means, variances = [], [], []
    for x in micro_batches:
        parts = []
        for chunk in x.split(ghost):
            fresh = copy.deepcopy(layer)
            fresh.momentum = 1.0
            fresh.weight, fresh.bias = layer.weight, layer.bias
            parts.append(fresh(chunk))
            means.append(fresh.running_mean)
            variances.append(fresh.running_var)
        outputs.append(torch.cat(parts))
    keep = 1 - layer.momentum
    mean, var = (torch.stack(stats).mean(0) * layer.momentum for stats in (means, variances))
    return outputs, keep * layer.running_mean + mean, keep * layer.running_var + var


@pytest.mark.parametrize("one_call", [False, True], ids=["a call each", "one call"])
@pytest.mark.parametrize(
    ("micro", "accumulation", "ghost"), [(8, 1, 8), (8, 1, 4), (12, 1, 3), (4, 3, 4), (8, 2, 2), (2, 1, 1)]
)
def test_outputs_gradients_and_statistics_of_a_chunk_loop(monkeypatch, micro, accumulation, ghost, one_call):
    monkeypatch.setattr(
        GhostBatchNorm2d, "_wants_one_call", lambda self, x: one_call
    )  # a GPU's choice, made here
    layer = plain_layer()
    twin = convert_to_ghost_batch_norm(nn.Sequential(copy.deepcopy(layer)), ghost)
    batches = [images(micro, seed).requires_grad_() for seed in range(accumulation)]
    twins = [x.detach().clone().requires_grad_() for x in batches]
    expected, mean, var = by_hand(layer, batches, ghost)
    statistics = GhostStatistics(twin)
    for x, target in zip(twins, expected, strict=True):
        out = twin(x)
        torch.testing.assert_close(out, target, **EXACT)
        weights = images(micro, seed=99)
        (out * weights).sum().backward()
        (target * weights).sum().backward()
    statistics.start()
    statistics.finish()
    for ours, theirs in [
        *zip(twins, batches, strict=True),
        (twin[0].weight, layer.weight),
        (twin[0].bias, layer.bias),
    ]:
        torch.testing.assert_close(ours.grad, theirs.grad, **EXACT)
    torch.testing.assert_close(twin[0].running_mean, mean, **EXACT)
    torch.testing.assert_close(twin[0].running_var, var, **EXACT)
    assert twin[0].num_batches_tracked == 1


@pytest.mark.parametrize("one_call", [False, True], ids=["a call each", "one call"])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_activations_and_gradients_keep_their_memory_format(monkeypatch, one_call, memory_format):
    """The next convolution would copy them otherwise."""
    monkeypatch.setattr(GhostBatchNorm2d, "_wants_one_call", lambda self, x: one_call)
    twin = convert_to_ghost_batch_norm(nn.Sequential(plain_layer()), 4)
    x = images(8).contiguous(memory_format=memory_format).requires_grad_()
    out = twin(x)
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert out.is_contiguous(memory_format=memory_format)
    assert gradient.is_contiguous(memory_format=memory_format)


def test_one_ghost_batch_a_step_is_plain_batch_norm_over_several_steps():
    layer = plain_layer()
    twin = convert_to_ghost_batch_norm(nn.Sequential(copy.deepcopy(layer)), 6)
    statistics = GhostStatistics(twin)
    for seed in range(3):
        torch.testing.assert_close(twin(images(6, seed)), layer(images(6, seed)), **EXACT)
        statistics.start()
        statistics.finish()
    for name, tensor in layer.state_dict().items():
        torch.testing.assert_close(twin[0].state_dict()[name], tensor, **EXACT)


def test_a_step_moves_the_statistics_as_far_as_an_update_per_ghost_batch():
    """Hoffer et al. 2017, algorithm 1: with k ghost batches that have the same statistics, exactly."""
    recipe = Recipe().vary(batch_size=24, bn_batch_size=8, bn_momentum=0.3, bn_update="ghost_batch")
    (phase,) = make_plan(recipe, 1).phases
    model, plain, x = nn.Sequential(plain_layer()), nn.Sequential(plain_layer()), images(8)
    convert_to_ghost_batch_norm(model, 8)
    regroup_ghost_batches(model, 1, phase.bn_momentum)
    statistics = GhostStatistics(model)
    model(torch.cat([x, x, x]))
    statistics.start()
    statistics.finish()
    for _ in range(3):
        plain(x)
    torch.testing.assert_close(model[0].running_mean, plain[0].running_mean, **EXACT)
    torch.testing.assert_close(model[0].running_var, plain[0].running_var, **EXACT)
    once = make_plan(recipe.vary(bn_update="step"), 1).phases[0]
    assert once.bn_momentum == 0.3 and phase.bn_momentum == pytest.approx(1 - 0.7**3)


def test_evaluation_is_plain_batch_norm_for_any_number_of_images():
    layer = plain_layer().eval()
    twin = convert_to_ghost_batch_norm(nn.Sequential(copy.deepcopy(layer)), 4).eval()
    for count in (1, 3, 7):
        assert torch.equal(twin(images(count)), layer(images(count)))
    assert twin[0].ghosts_seen == 0


def test_running_statistics_do_not_move_within_a_step_nor_without_a_forward_pass():
    twin = convert_to_ghost_batch_norm(nn.Sequential(plain_layer()), 2)
    before = copy.deepcopy(twin.state_dict())
    twin(images(4))
    statistics = GhostStatistics(twin)
    assert all(torch.equal(twin.state_dict()[name], tensor) for name, tensor in before.items())
    fresh = GhostStatistics(convert_to_ghost_batch_norm(nn.Sequential(plain_layer()), 2))
    fresh.start()
    fresh.finish()
    assert fresh.layers[0].num_batches_tracked == 0
    statistics.start()
    statistics.finish()
    assert not torch.equal(twin[0].running_mean, before["0.running_mean"])


def test_a_second_step_forgets_the_first():
    twin = convert_to_ghost_batch_norm(nn.Sequential(plain_layer()), 4)
    statistics = GhostStatistics(twin)
    twin(images(8, 1))
    statistics.start()
    statistics.finish()
    middle = copy.deepcopy(twin[0])
    _, mean, var = by_hand(_as_plain(middle), [images(8, 2)], 4)
    twin(images(8, 2))
    statistics.start()
    statistics.finish()
    torch.testing.assert_close(twin[0].running_mean, mean, **EXACT)
    torch.testing.assert_close(twin[0].running_var, var, **EXACT)


def _as_plain(ghost: GhostBatchNorm2d) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(3, momentum=ghost.momentum, eps=ghost.eps).double()
    layer.load_state_dict(ghost.state_dict())
    return layer


@pytest.mark.parametrize(
    ("layer", "shape", "kind"),
    [
        (nn.BatchNorm1d(3), (8, 3), GhostBatchNorm1d),
        (nn.BatchNorm1d(3), (8, 3, 5), GhostBatchNorm1d),
        (nn.BatchNorm2d(3, affine=False), (8, 3, 2, 2), GhostBatchNorm2d),
    ],
)
def test_other_shapes_and_layers_without_weights(layer, shape, kind):
    twin = convert_to_ghost_batch_norm(nn.Sequential(copy.deepcopy(layer)), 4)
    assert type(twin[0]) is kind
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(twin(x), torch.cat([layer(chunk) for chunk in x.split(4)]))


def test_state_dict_keys_and_parameters_stay():
    model = timm.create_model("resnet18", num_classes=3)
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    assert convert_to_ghost_batch_norm(model, 4) is model
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
    timm.create_model("resnet18", num_classes=3).load_state_dict(model.state_dict())


def test_timms_norm_with_activation_keeps_its_activation():
    torch.manual_seed(0)
    layer = BatchNormAct2d(3, act_layer=nn.SiLU).double()
    twin = convert_to_ghost_batch_norm(nn.Sequential(copy.deepcopy(layer)), 4)
    x = images(8)
    torch.testing.assert_close(twin(x), torch.cat([layer(chunk) for chunk in x.split(4)]), **EXACT)


def test_timms_norm_with_activation_in_evaluation():
    layer = BatchNormAct2d(3).double().eval()
    twin = convert_to_ghost_batch_norm(nn.Sequential(copy.deepcopy(layer)), 4).eval()
    assert torch.equal(twin(images(5)), layer(images(5)))
    assert (twin(images(5)) >= 0).all()


def test_a_timm_model_of_such_layers_is_converted_whole():
    model = timm.create_model("efficientnet_b0", num_classes=2)
    count = sum(isinstance(module, BatchNormAct2d) for module in model.modules())
    convert_to_ghost_batch_norm(model, 2)
    assert count == len(GhostStatistics(model).layers) == 49


class Renormalised(nn.BatchNorm2d):
    """Computes something of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Renamed(nn.BatchNorm2d):
    """Computes what batch norm does."""


class MovingAverage(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running_scale", torch.ones(3))


REJECTED = [
    (Renormalised(3), "1 is a Renormalised, which changes what batch norm computes"),
    (nn.LazyBatchNorm2d(), "1 is a LazyBatchNorm2d"),
    (nn.SyncBatchNorm(3), "SyncBatchNorm, which takes its statistics over all ranks.*bn_batch_size"),
    (SyncBatchNormAct(3), "SyncBatchNormAct, which takes its statistics over all ranks"),
    (SplitBatchNorm2d(3), "SplitBatchNorm2d, which takes its statistics over shares of a micro-batch"),
    (EvoNorm2dB0(3), "EvoNorm2dB0, .*norm_layer=evonorms0"),
    (EvoNorm2dB1(3), "EvoNorm2dB1"),
    (EvoNorm2dB2(3), "EvoNorm2dB2"),
    (nn.InstanceNorm2d(3, track_running_stats=True), "InstanceNorm2d, .*track_running_stats=False"),
    (MovingAverage(), "MovingAverage, which keeps running statistics of a kind that is not known"),
]


@pytest.mark.parametrize(("layer", "words"), REJECTED, ids=[type(layer).__name__ for layer, _ in REJECTED])
def test_a_layer_that_depends_on_the_batch_and_has_no_ghost_form_is_rejected(layer, words):
    for check in (check_batch_statistics, lambda model: convert_to_ghost_batch_norm(model, 4)):
        with pytest.raises(ValueError, match=words):
            check(nn.Sequential(nn.ReLU(), layer))


def test_a_layer_without_momentum_or_running_statistics_is_rejected():
    with pytest.raises(ValueError, match="momentum"):
        convert_to_ghost_batch_norm(nn.Sequential(nn.BatchNorm2d(3, momentum=None)), 4)
    with pytest.raises(ValueError, match=r"1 is a BatchNorm2d, which .*track_running_stats=True"):
        check_batch_statistics(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3, track_running_stats=False)))


INDEPENDENT = [
    FrozenBatchNorm2d(3),
    FrozenBatchNormAct2d(3),
    FilterResponseNormAct2d(3),
    EvoNorm2dS0(32),
    nn.InstanceNorm2d(3),
    nn.GroupNorm(1, 3),
    ScaledStdConv2d(3, 3, 1),
    nn.LocalResponseNorm(3),
]


@pytest.mark.parametrize("layer", INDEPENDENT, ids=lambda layer: type(layer).__name__)
def test_a_layer_that_does_not_depend_on_the_batch_stays_as_it_is(layer):
    kind = type(layer)
    assert check_batch_statistics(nn.Sequential(layer)) == 0
    assert type(convert_to_ghost_batch_norm(nn.Sequential(layer), 4)[0]) is kind
    x = torch.randn(6, getattr(layer, "num_features", 32 if kind is EvoNorm2dS0 else 3), 4, 4)
    torch.testing.assert_close(layer(x)[:2], layer(x[:2]))


@pytest.mark.parametrize(
    ("layer", "shape"), [(Renamed(3), (8, 3, 2, 2)), (nn.BatchNorm3d(3), (8, 3, 2, 2, 2))]
)
def test_whatever_has_batch_norms_own_forward_pass_gets_a_ghost_form(layer, shape):
    twin = convert_to_ghost_batch_norm(nn.Sequential(copy.deepcopy(layer)), 4)
    assert isinstance(twin[0], type(layer)) and len(GhostStatistics(twin).layers) == 1
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(twin(x), torch.cat([layer(chunk) for chunk in x.split(4)]))


def test_a_model_that_is_converted_twice_is_converted_once():
    twin = convert_to_ghost_batch_norm(nn.Sequential(plain_layer()), 4)
    assert type(convert_to_ghost_batch_norm(twin, 2)[0]) is GhostBatchNorm2d and twin[0].ghost_size == 2


FROZEN = [{0}, {1}, {2}, {0, 1}, {0, 2}, {0, 1, 2}, set()]


@pytest.mark.parametrize("frozen", FROZEN, ids=str)
def test_layers_in_eval_mode_keep_their_statistics_and_the_others_move(frozen):
    """Partially frozen stages: as in torch, whatever the mode of the other layers."""
    model = nn.Sequential(plain_layer(), plain_layer(), plain_layer())
    twin = convert_to_ghost_batch_norm(copy.deepcopy(model), 6)
    statistics = GhostStatistics(twin)
    for each in (model, twin):
        for number in frozen:
            each[number].eval()
    for seed in range(3):
        torch.testing.assert_close(twin(images(6, seed)), model(images(6, seed)), **EXACT)
        statistics.start()
        statistics.finish()
    torch.testing.assert_close(twin.state_dict(), model.state_dict(), **EXACT)
    assert [int(layer.num_batches_tracked) for layer in twin] == [0 if n in frozen else 3 for n in range(3)]


def test_a_layer_that_is_not_called_or_changes_its_mode_keeps_its_statistics():
    twin = convert_to_ghost_batch_norm(nn.Sequential(plain_layer(), plain_layer()), 6)
    statistics, before = GhostStatistics(twin), copy.deepcopy(twin[1].state_dict())
    for frozen in (False, True, False):
        twin[0].train(not frozen)
        twin[0](images(6))
        statistics.start()
        statistics.finish()
    assert twin[0].num_batches_tracked == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in twin[1].state_dict().items())


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_a_micro_batch_that_tears_a_ghost_batch_is_rejected(count):
    twin = convert_to_ghost_batch_norm(nn.Sequential(plain_layer()), 4)
    with pytest.raises(
        ValueError, match=f"a micro-batch of {count} images holds no whole number of ghost batches of 4"
    ):
        twin(images(count))


def test_a_wrong_number_of_dimensions_is_rejected_as_in_batch_norm():
    with pytest.raises(ValueError, match="expected 4D input"):
        GhostBatchNorm2d(3, 4)(torch.zeros(4, 3))
