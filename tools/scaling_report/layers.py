"""Per-layer gradient bytes and computing time of a model: counted without data or weights, or timed in one real step."""

import difflib
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

from lbtrain.cluster.comm_model import Buckets, fill_buckets

BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}


def counted_layers(model_name: str, *, dtype: str = "fp32") -> list[tuple[float, float]]:
    """(gradient bytes, multiply-adds of one image) per layer of a timm model in forward order.

    Multiply-adds stand in for time. They overstate layers that are limited by arithmetic against those limited by memory, but what matters
    here is when the large late layers' gradients are ready, and that they get right.
    """
    if not timm.is_model(model_name):
        close = difflib.get_close_matches(model_name, timm.list_models(), n=3)
        raise ValueError(f"timm has no model {model_name!r}" + (f"; did you mean {', '.join(close)}?" if close else ""))
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


def timed_buckets(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Buckets:
    """Buckets of `model` from one profiled step: each parameter's gradient is stamped when it is complete. Not for use inside DDP."""
    stamps: list[tuple[float, float]] = []

    def stamp(parameter: torch.Tensor) -> None:
        _synchronize(parameter)
        stamps.append((float(parameter.numel() * parameter.element_size()), time.perf_counter()))

    hooks = [parameter.register_post_accumulate_grad_hook(stamp) for parameter in model.parameters() if parameter.requires_grad]
    start = time.perf_counter()
    value = loss()
    _synchronize(value)
    forward_end = time.perf_counter()
    value.backward()
    for hook in hooks:
        hook.remove()
    times = [forward_end, *(when for _, when in stamps)]
    layers = [(num_bytes, after - before) for (num_bytes, after), before in zip(stamps, times, strict=False)]
    return fill_buckets(layers[::-1], forward_share=(forward_end - start) / (times[-1] - start))


def _synchronize(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
