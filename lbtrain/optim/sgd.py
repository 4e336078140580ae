"""torch's SGD in one trip to memory a layer: its fused kernel, where that is right.

torch takes several trips by default, and its fused kernel on a CPU walks through weight, gradient and
momentum side by side whatever their order in memory: under a gradient in another order than its weight it
steps in wrong directions and says nothing (seen with torch 2.14).
"""

from typing import Any

import torch
from torch import Tensor, nn

from .norms import lie_alike


def create_sgd(groups: list[dict[str, Any]], *, momentum: float, nesterov: bool) -> torch.optim.SGD:
    """Make torch's SGD over these parameter groups, with rate 0, that takes the fused kernel in each step in
    which it may.
    """
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov)
    # Not `fused=True`: GradScaler would then leave an overflow to the kernel, which in a first step keeps a
    # momentum nobody has written.
    optimizer.register_step_pre_hook(_choose_kernel)
    return optimizer


def _choose_kernel(optimizer: torch.optim.Optimizer, *step_arguments: Any) -> None:
    for group in optimizer.param_groups:
        stepped = [parameter for parameter in group["params"] if parameter.grad is not None]
        group["fused"] = (
            all(
                lie_alike(parameter, parameter.grad, *_momentum(optimizer, group, parameter))
                for parameter in stepped
            )
            or None
        )


def _momentum(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: nn.Parameter
) -> list[Tensor]:
    """The buffer, from the first step on: torch makes it in that step, but the fused kernel takes all of a
    group's buffers or none.
    """
    if not group["momentum"]:
        return []
    state = optimizer.state[parameter]
    if state.get("momentum_buffer") is None:
        state["momentum_buffer"] = torch.zeros_like(parameter)
    return [state["momentum_buffer"]]
