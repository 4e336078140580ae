"""bf16 and fp16 under ColossalAI: the forward pass is that of plain torch's autocast, weights and batch norm
stay fp32.
"""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from lab.ranks import run_on_ranks
from lbtrain.engines.colossalai import _LossScaling
from tests.colossalai.runs import train_sharded_on
from tests.distributed.runs import relative_difference, train_on


@pytest.fixture(scope="module", params=["bf16", "fp16"])
def plain(request, tmp_path_factory) -> tuple[str, Any]:
    return request.param, train_on(
        2, tmp_path_factory.mktemp("plain") / "run", engine="ddp", precision=request.param
    )


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_losses_are_those_of_plain_torch_in_that_precision(plain, tmp_path, stage):
    precision, expected = plain
    train = train_sharded_on if stage else train_on
    run = train(
        2, tmp_path / "run", engine="colossalai", colossalai=dict(zero_stage=stage), precision=precision
    )
    assert relative_difference(run.losses, expected.losses) < 1e-5
    checkpoint = run.checkpoint()
    assert {tensor.dtype for tensor in checkpoint["state_dict"].values() if tensor.is_floating_point()} == {
        torch.float32
    }
    assert checkpoint["loss_scale"] == expected.checkpoint()["loss_scale"]


class Gradients:
    """What the loss scaling asks of a LowLevelZeroOptimizer."""

    num_param_groups = 1

    def __init__(self, gradient: torch.Tensor):
        self.gradient = gradient

    def get_working_grads_by_group_id(self, group_id: int) -> list[torch.Tensor]:
        return [torch.ones(3), self.gradient]


def _scaled_steps() -> list[tuple[bool, float, float]]:
    """Three steps, the second overflows on one rank: whether each is skipped, what it is divided by, and the
    scale after it.
    """
    gradients = Gradients(torch.ones(2))
    scaling = _LossScaling(gradients)
    scaling.GROWTH_INTERVAL = 1
    steps = []
    for bad in (False, True, False):
        gradients.gradient = torch.tensor([1.0, float("inf") if bad and dist.get_rank() == 1 else 0.0])
        assert scaling.pre_backward(torch.tensor(1.0)) == scaling.scale
        steps.append((scaling.should_skip_step(), scaling.get_grad_div_scale(), scaling.scale))
    return steps


def test_a_step_is_divided_by_the_scale_of_its_own_loss():
    """Also by the step after which the scale grows; ColossalAI's own scaling divides that one by the next
    scale.
    """
    start = 2.0**16
    expected = [(False, start, 2 * start), (True, 2 * start, start), (False, start, 2 * start)]
    assert run_on_ranks(2, _scaled_steps) == [expected] * 2
