"""torch's SGD and AdamW in one trip to memory a layer: its fused kernels, where they are right.

torch takes several trips by default, on a CPU in a loop over the layers, and its fused kernels on a CPU walk
through weight, gradient and state side by side whatever their order in memory: under a gradient in another
order than its weight they step in wrong directions and say nothing (seen with torch 2.14).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .norms import lie_alike


def create_sgd(groups: list[dict[str, Any]], *, momentum: float, nesterov: bool) -> torch.optim.SGD:
    """Make torch's SGD over these parameter groups, with rate 0, that takes the fused kernel in each step in
    which it may.
    """
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov)
    # Not `fused=True`: GradScaler would then leave an overflow to the kernel, which in a first step keeps a
    # momentum nobody has written.
    optimizer.register_step_pre_hook(_choose_kernels)
    return optimizer


def create_adamw(
    groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """Make torch's AdamW over these parameter groups, with rate 0, that takes the fused kernel in each step
    in which it may.
    """
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps)
    optimizer.register_step_pre_hook(_choose_kernels)
    return optimizer


def choose_kernel(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], states: Sequence[dict[str, Tensor]]
) -> bool | None:
    """Return what torch's `fused` is to be in the next step of these layers: True where the kernel is right,
    else None, torch's default. Step counts move to the weights' device, where the kernel reads them.
    """
    for weight, gradient, state in zip(weights, gradients, states, strict=True):
        if not lie_alike(weight, gradient, *(each for key, each in state.items() if key != "step")):
            return None
    for weight, state in zip(weights, states, strict=True):
        if "step" in state:
            state["step"] = state["step"].to(weight.device)
    return True


def _choose_kernels(optimizer: torch.optim.Optimizer, *step_arguments: Any) -> None:
    for group in optimizer.param_groups:
        weights = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = [optimizer.state[weight] for weight in weights]
        if group.get("momentum"):
            _begin_momentum(weights, states)
        group["fused"] = choose_kernel(weights, [weight.grad for weight in weights], states)


def _begin_momentum(weights: list[Tensor], states: list[dict[str, Tensor]]) -> None:
    """Make the buffers that torch makes in a first step: the fused kernel takes all of a group's or none."""
    for weight, state in zip(weights, states, strict=True):
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(weight)
