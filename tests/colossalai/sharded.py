"""The small training run of tests/distributed/sharded.py by ColossalAI's own interface, as someone with a
loop of their own would.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lbtrain.optim import bind_colossalai
from tests.colossalai.streams import streams_on_cpu
from tests.distributed.sharded import Run


def boost(
    run: Run, stage: int, model: nn.Module, optimizer: torch.optim.Optimizer, precision: str = "fp32"
) -> tuple[Any, Any]:
    """The model and the optimizer under LowLevelZero; inside `streams_on_cpu`."""
    from colossalai.booster import Booster
    from colossalai.booster.plugin import LowLevelZeroPlugin

    plugin = LowLevelZeroPlugin(
        stage=stage, precision=precision, max_norm=run.clip, overlap_communication=False
    )
    boosted_model, boosted_optimizer, *_ = Booster(plugin=plugin).boost(model, optimizer)
    return boosted_model, boosted_optimizer


def steps(run: Run, boosted: tuple[Any, Any], start: int = 0) -> None:
    model, zero = boosted
    world, rank = dist.get_world_size(), dist.get_rank()
    for step in range(start, start + run.steps):
        for group in zero.param_groups:
            group["lr"] = run.rate(step)
        for window in range(run.accumulation):
            zero.require_grad_sync = window + 1 == run.accumulation or zero._partition_grads
            part = rank * run.accumulation + window
            zero.backward(run.loss(model, step, part, world * run.accumulation) / run.accumulation)
        zero.step()
        zero.zero_grad()


def train_colossalai(run: Run, stage: int, bind: bool = True) -> dict[str, Tensor]:
    """On every rank of the process group; returns the whole weights."""
    with streams_on_cpu():
        model = run.model()
        optimizer = run.make_optimizer(model)
        boosted = boost(run, stage, model, optimizer)
        if bind:
            bind_colossalai(optimizer, boosted)
        steps(run, boosted)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
