"""A ghost batch that lies on two ranks is the ghost batch of one process: outputs, gradients and running
statistics.
"""

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lab.ranks import run_on_ranks
from lbtrain.nn import GhostStatistics, convert_to_ghost_batch_norm

CLOSE = dict(rtol=1e-10, atol=1e-10)
MICRO = 3


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.ReLU(),
        nn.Conv2d(4, 3, 2),
        nn.BatchNorm2d(3, affine=False),
    )
    return model.double()


def data(count: int, accumulation: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(accumulation, count, 2, 6, 6, generator=generator, dtype=torch.float64) * 3 + 2
    return x, torch.randn(accumulation, count, 3, 3, 3, generator=generator, dtype=torch.float64)


def one_step(model: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Any]:
    x.requires_grad_()
    outputs = []
    for micro_batch, weight in zip(x, weights, strict=True):
        outputs.append(model(micro_batch))
        (outputs[-1] * weight).sum().backward()
    statistics = GhostStatistics(model)
    statistics.start()
    statistics.finish()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {
        "out": torch.stack(outputs).detach(),
        "x": x.grad,
        "gradients": gradients,
        "buffers": dict(model.named_buffers()),
    }


def on_a_rank(ghost: int, ranks_per_ghost: int, accumulation: int) -> dict[str, Any]:
    rank, world = dist.get_rank(), dist.get_world_size()
    model = convert_to_ghost_batch_norm(make_model(), ghost, ranks_per_ghost=ranks_per_ghost)
    x, weights = (
        whole[:, rank * MICRO : (rank + 1) * MICRO].clone() for whole in data(MICRO * world, accumulation)
    )
    result = one_step(model, x, weights)
    for gradient in result["gradients"].values():
        dist.all_reduce(gradient)
    return result


@pytest.mark.parametrize(("world", "ranks_per_ghost"), [(2, 2), (4, 2), (4, 4), (2, 1)])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_ghost_batch_over_ranks_equals_one_process(world, ranks_per_ghost, accumulation):
    ghost = MICRO * ranks_per_ghost
    expected = one_step(convert_to_ghost_batch_norm(make_model(), ghost), *data(MICRO * world, accumulation))
    ranks = run_on_ranks(world, on_a_rank, ghost, ranks_per_ghost, accumulation)
    for part in ("out", "x"):
        torch.testing.assert_close(
            torch.cat([result[part] for result in ranks], dim=1), expected[part], **CLOSE
        )
    persistent = list(make_model().state_dict())
    for result in ranks:
        for name, gradient in expected["gradients"].items():
            torch.testing.assert_close(result["gradients"][name], gradient, **CLOSE)
        for name in set(persistent) & set(expected["buffers"]):
            torch.testing.assert_close(result["buffers"][name], expected["buffers"][name], **CLOSE)


def copies_share_the_group() -> bool:
    model = convert_to_ghost_batch_norm(make_model(), 2 * MICRO, ranks_per_ghost=2)
    copied = copy.deepcopy(model)
    assert copied[1].group is model[1].group and copied[1].group is not None
    assert copied[1].weight is not model[1].weight and copied[1].step_mean is not model[1].step_mean
    images = data(2 * MICRO, 1)[0][0, dist.get_rank() * MICRO :][:MICRO]
    return torch.equal(copied(images), model(images))


def test_a_copy_of_the_model_keeps_the_ranks_of_its_ghost_batches():
    assert run_on_ranks(2, copies_share_the_group) == [True, True]


def running_statistics_under(broadcasts: bool) -> dict[str, Tensor]:
    """After a step of two passes in a plain loop, both of which exchange gradients."""
    rank = dist.get_rank()
    model = convert_to_ghost_batch_norm(make_model(), MICRO)
    distributed = nn.parallel.DistributedDataParallel(model, broadcast_buffers=broadcasts)
    for images in data(2 * MICRO, 2)[0]:
        distributed(images[rank * MICRO : (rank + 1) * MICRO]).square().sum().backward()
    statistics = GhostStatistics(model)
    statistics.start()
    statistics.finish()
    return {name: tensor.detach() for name, tensor in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("broadcasts", [True, False])
def test_statistics_of_a_step_are_each_ranks_own_under_ddp(broadcasts):
    expected = one_step(convert_to_ghost_batch_norm(make_model(), MICRO), *data(2 * MICRO, 2))["buffers"]
    for buffers in run_on_ranks(2, running_statistics_under, broadcasts):
        for name, tensor in buffers.items():
            torch.testing.assert_close(tensor, expected[name], **CLOSE)
