"""The loss scale of fp16 grows at the same step whether a run was stopped before it or not, also under
another engine.
"""

from typing import Any

import pytest
import torch
from torch import nn

from lbtrain.engines.ddp import load_loss_scale, loss_scale_of
from lbtrain.engines.loss_scale import LossScale

START = {"loss_scale": 1024.0, "loss_scale_steps": LossScale.GROWTH_INTERVAL - 3}


class TorchScale:
    """torch's own, with the methods of ours."""

    def __init__(self) -> None:
        self.scaler = torch.amp.GradScaler("cpu")
        self.weight = nn.Parameter(torch.ones(1))
        self.optimizer = torch.optim.SGD([self.weight], lr=0.0)

    def state(self) -> dict[str, Any]:
        return loss_scale_of(self.scaler)

    def load(self, state: dict[str, Any]) -> None:
        load_loss_scale(self.scaler, state)

    def move(self, *, overflowed: bool) -> None:
        self.scaler.scale(self.weight.sum()).backward()
        self.weight.grad.fill_(float("inf") if overflowed else 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def moved(scale: LossScale | TorchScale, *overflows: bool) -> LossScale | TorchScale:
    for overflowed in overflows:
        scale.move(overflowed=overflowed)
    return scale


def from_state(kind: type, state: dict[str, Any]) -> LossScale | TorchScale:
    scale = kind()
    scale.load(state)
    return scale


@pytest.mark.parametrize("before", [LossScale, TorchScale])
@pytest.mark.parametrize("after", [LossScale, TorchScale])
def test_a_resume_forgets_no_step_on_the_way_to_a_larger_scale(before, after):
    stopped = moved(from_state(before, START), False, False).state()
    assert stopped == {"loss_scale": 1024.0, "loss_scale_steps": LossScale.GROWTH_INTERVAL - 1}
    assert moved(from_state(after, stopped), False).state() == {"loss_scale": 2048.0, "loss_scale_steps": 0}
    assert moved(from_state(after, stopped), True, False).state() == {
        "loss_scale": 512.0,
        "loss_scale_steps": 1,
    }


def test_without_fp16_there_is_nothing_to_keep():
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    load_loss_scale(scaler, START)
    assert loss_scale_of(scaler) == {"loss_scale": 1.0, "loss_scale_steps": 0}
