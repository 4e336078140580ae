"""What the loop asks of an engine, and the state that all of them save and load."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lbtrain.optim import Shards

EngineState = dict[str, Any]
"""Full, named, on the CPU, and the same under every engine: `model` {name: tensor} as in `state_dict()`,
`optimizer` {parameter name: {state name: tensor}}, `loss_scale` a number, `loss_scale_steps` the steps since
it moved. So a checkpoint moves between engines, ZeRO stages and world sizes.
"""


class Engine(Protocol):
    """Runs forward, backward and update over all ranks. A step is `accumulation` backward calls, then one
    `step`.
    """

    model: nn.Module
    """What the task calls; its forward pass runs in the plan's precision."""

    module: nn.Module
    """The network itself, without wrapper."""

    trained: dict[str, nn.Parameter]
    """The parameters of the network that are stepped, by name."""

    rank: int
    world_size: int
    device: torch.device

    accumulation: int
    """Backward calls per step. May be set between steps; never inside one."""

    @property
    def loss_scale(self) -> float:
        """Of fp16 at the next step; 1 in other precisions. Asking waits for the device."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` (the mean over a micro-batch) to the step's: the average over
        accumulation and ranks.

        The last call of a step sends the gradients on their way while the rest of the backward pass still
        computes.
        """

    def step(self, lr: float) -> bool:
        """Clip, update with learning rate `lr`, forget the gradients. False if the update was skipped (fp16
        overflow).
        """

    def mean(self, tensor: Tensor) -> Tensor:
        """The average over ranks, on every rank. Collective."""

    def shards(self) -> Shards | None:
        """Where the layers lie that the optimizer steps, if it steps slices of them."""

    def clipped_by(self) -> float:
        """By what clipping has divided the gradients of the update that is being made: 1 where they were not
        clipped, or where the engine clips what `p.grad` shows before.
        """

    def save(self) -> EngineState | None:
        """A copy of the full state, on rank 0 (None on the others). Collective."""

    def load(self, state: EngineState) -> None:
        """Continue from `state`, which every rank passes. Collective."""


def named_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """{parameter name: {state name: tensor on the CPU}} of an optimizer that holds whole parameters."""
    return {
        name: {
            key: value.to("cpu", copy=True)
            for key, value in optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def load_named_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, dict[str, Tensor]]
) -> None:
    """The inverse of `named_optimizer_state`. Counters stay on the CPU, as torch keeps them; what has the
    parameter's shape gets its order in memory, in which fused kernels need all tensors alike.
    """
    for name, parameter in model.named_parameters():
        if name in state:
            optimizer.state[parameter] = {
                key: value.clone() if key == "step" else _laid_like(parameter.detach(), value)
                for key, value in state[name].items()
            }


def _laid_like(parameter: Tensor, value: Tensor) -> Tensor:
    if value.shape != parameter.shape:
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
