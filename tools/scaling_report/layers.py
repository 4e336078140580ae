"""Per-layer gradient bytes and computing time of a model: counted without data or weights, or timed in one real step."""

import difflib
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

from lbtrain.cluster.comm_model import Buckets, fill_buckets
from lbtrain.errors import RecipeError

BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}


def counted_layers(model_name: str, *, dtype: str = "fp32") -> list[tuple[float, float]]:
    """(gradient bytes, multiply-adds of one image) per layer of a timm model in forward order.

    Multiply-adds stand in for time. They overstate layers that are limited by arithmetic against those limited by memory, but what matters
    here is when the large late layers' gradients are ready, and that they get right.
    """
    if not timm.is_model(model_name):
        close = difflib.get_close_matches(model_name, timm.list_models(), n=3)
        raise RecipeError(f"timm has no model {model_name!r}" + (f"; did you mean {', '.join(close)}?" if close else ""))
    with torch.device("meta"):
        model = timm.create_model(model_name).eval()
        image = torch.empty(1, *timm.data.resolve_model_data_config(model)["input_size"])
    layers: list[tuple[float, float]] = []

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        layers.append((_own_bytes(module, BYTES[dtype]), _multiply_adds(module, output)))

    for module in model.modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(image)
    return layers


def _own_bytes(module: nn.Module, bytes_per_value: int) -> float:
    return float(bytes_per_value * sum(parameter.numel() for parameter in module.parameters(recurse=False)))


def _multiply_adds(module: nn.Module, output: torch.Tensor) -> float:
    weight = getattr(module, "weight", None)
    if weight is None or not isinstance(output, torch.Tensor):
        return 0.0
    # Each output value is the product of one row of the weight with as many inputs.
    return float(output.numel() * weight.numel() / weight.shape[0])


class GradientStamps:
    """While it is on, notes when each parameter's gradient is complete. Not for a step that exchanges gradients."""

    def __init__(self, model: nn.Module):
        self._stamps: list[tuple[float, float]] = []
        self._hooks = [each.register_post_accumulate_grad_hook(self._stamp) for each in model.parameters() if each.requires_grad]

    def _stamp(self, parameter: torch.Tensor) -> None:
        _synchronize(parameter)
        self._stamps.append((float(parameter.numel() * parameter.element_size()), time.perf_counter()))

    def buckets(self, *, forward_start: float, forward_end: float) -> Buckets:
        """Ends the stamping; the times are of time.perf_counter()."""
        for hook in self._hooks:
            hook.remove()
        times = [forward_end, *(when for _, when in self._stamps)]
        layers = [(num_bytes, after - before) for (num_bytes, after), before in zip(self._stamps, times, strict=False)]
        return fill_buckets(layers[::-1], forward_share=(forward_end - forward_start) / (times[-1] - forward_start))


def timed_buckets(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Buckets:
    """Buckets of `model` from one profiled forward and backward pass."""
    stamps = GradientStamps(model)
    start = time.perf_counter()
    value = loss()
    _synchronize(value)
    forward_end = time.perf_counter()
    value.backward()
    return stamps.buckets(forward_start=start, forward_end=forward_end)


def _synchronize(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
