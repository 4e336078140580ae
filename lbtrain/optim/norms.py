"""Squared norms of many tensors: exact to single precision, at the speed of one read."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

# A single-precision sum over the 2.4 million elements of a large convolution is off by 1e-4 (torch.norm on
# CPU); added up over pieces of this size it is off by 2e-7. A piece also fits in a core's cache, so several
# operations on it cost one trip to memory.
PIECE = 65536


def squared_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the squared Euclidean norm of each tensor: float64 [len(tensors)], on their device, without
    synchronising it.
    """
    if tensors[0].device.type == "cpu":
        return torch.tensor([_squared_norm(tensor) for tensor in tensors], dtype=torch.float64)
    return torch.stack(_norms(tensors)).double().square()


@torch.no_grad()
def squared_norm_into(slot: Tensor, tensor: Tensor) -> None:
    """Write the squared Euclidean norm of one tensor into a scalar of single precision, without synchronising
    the device.
    """
    if tensor.dtype.itemsize < 4:
        tensor = tensor.float()
    if tensor.device.type != "cpu":
        torch.linalg.vector_norm(tensor, out=slot).square_()
        return
    flat = in_memory_order(tensor)
    if flat.numel() <= PIECE:
        torch.dot(flat, flat, out=slot)
    else:
        slot.copy_(squared_norms([flat])[0])


def _norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    low_precision = tensors[0].dtype.itemsize < 4
    return list(torch._foreach_norm(list(tensors), 2, dtype=torch.float32 if low_precision else None))


def _squared_norm(tensor: Tensor) -> float:
    if tensor.dtype.itemsize < 4:
        tensor = tensor.float()
    if tensor.numel() <= PIECE and tensor.is_contiguous():
        flat = tensor.view(-1)
        return torch.dot(flat, flat).item()
    return sum(torch.dot(piece, piece).item() for piece in in_memory_order(tensor).split(PIECE))


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return the elements as one flat tensor: a view where they lie without gaps, in the order in which they
    lie.
    """
    if not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(-1)


def lie_alike(*tensors: Tensor) -> bool:
    """Say whether elements with one index lie at one place in all these tensors, without gaps and in one
    dtype.
    """
    first = tensors[0]
    if any(tensor.dtype != first.dtype for tensor in tensors):
        return False
    return all(t.is_contiguous() for t in tensors) or (
        first.dim() == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors)
    )


def named_layers(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Every parameter with its name, without what engines wrap around a model. A walk over all modules: made
    once, not in every step.
    """
    return [(_plain(name), p) for name, p in model.named_parameters()]


def gradient_norms(layers: Iterable[tuple[str, nn.Parameter]]) -> tuple[list[str], Tensor]:
    """Names and gradient norms of the layers whose whole gradients are at hand, on their device, to about
    1e-4.

    One reading of all gradients, by all threads: every step asks for them, to see whether they are finite.
    """
    held = [(name, p.grad) for name, p in layers if p.grad is not None and p.grad.numel()]
    if not held:
        return [], torch.zeros(0)
    return [name for name, _ in held], torch.stack(_norms([gradient for _, gradient in held]))


def _plain(name: str) -> str:
    """A parameter's name without what engines wrap around its model."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name
