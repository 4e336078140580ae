"""Gradient bytes and multiply-adds of each layer of a model, counted without data or weights."""

import difflib
import functools

import timm
import torch
from torch import nn

from lbtrain.errors import RecipeError

BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}


@functools.cache
def counted_layers(model_name: str, *, dtype: str = "fp32") -> tuple[tuple[float, float], ...]:
    """(gradient bytes, multiply-adds of one image) per layer of a timm model in forward order.

    Multiply-adds stand in for time. They overstate layers that are limited by arithmetic against those
    limited by memory, but what matters here is when the large late layers' gradients are ready, and that they
    get right.
    """
    if not timm.is_model(model_name):
        close = difflib.get_close_matches(model_name, timm.list_models(), n=3)
        raise RecipeError(
            f"timm has no model {model_name!r}" + (f"; did you mean {', '.join(close)}?" if close else "")
        )
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
    return tuple(layers)


def _own_bytes(module: nn.Module, bytes_per_value: int) -> float:
    return float(bytes_per_value * sum(parameter.numel() for parameter in module.parameters(recurse=False)))


def _multiply_adds(module: nn.Module, output: torch.Tensor) -> float:
    weight = getattr(module, "weight", None)
    if weight is None or not isinstance(output, torch.Tensor):
        return 0.0
    # Each output value is the product of one row of the weight with as many inputs.
    return float(output.numel() * weight.numel() / weight.shape[0])
