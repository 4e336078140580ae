"""Gradient bytes and multiply-adds of each layer of a model, counted without data or weights.

Classifiers are timm's, detectors torchvision's (what they are built as in detectron2 differs by under 1% in
gradient bytes). Names are read in any case and punctuation, so "ResNet-50" and "Mask R-CNN" are found.
"""

import difflib
import functools
import re
from dataclasses import dataclass

import timm
import torch
import torchvision
from torch import nn

from lbtrain.errors import RecipeError

BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}
_PHOTO = (800, 1088)  # of COCO, resized as most detectors do


@dataclass(frozen=True, slots=True)
class Counted:
    """`layers`: (gradient bytes in fp32, multiply-adds of one image) in forward order. `uneven`: images of a
    batch differ in what they take, as a detector's do.
    """

    layers: tuple[tuple[float, float], ...]
    uneven: bool = False

    @property
    def work(self) -> float:
        return sum(work for _, work in self.layers)


@functools.cache
def count_model(name: str) -> Counted:
    """Count the model that `name` spells. Raises RecipeError with close names where there is none.

    Multiply-adds stand in for time. They overstate layers that are limited by arithmetic against those
    limited by memory, but what matters here is when the large late layers' gradients are ready, and that they
    get right.
    """
    classifiers, detectors = _names()
    if found := classifiers.get(_plain(name)):
        with torch.device("meta"):
            model = timm.create_model(found).eval()
            image = torch.empty(1, *timm.data.resolve_model_data_config(model)["input_size"])
        return Counted(_forward(model, image))
    # "Mask R-CNN" is the simplest of its kind: the shortest name that begins so.
    if begins := sorted((each for each in detectors if each.startswith(_plain(name))), key=len):
        return _count_detector(detectors[begins[0]])
    known = classifiers | detectors
    close = [known[each] for each in difflib.get_close_matches(_plain(name), known, n=3)]
    hint = f"did you mean {', '.join(close)}? " if close else ""
    raise RecipeError(
        f"neither timm nor torchvision's detection has a model {name!r}: {hint}For any other model give its "
        "gradients' size, --gradient-bytes 178MB"
    )


def evenly_spread(num_bytes: float, *, pieces: int = 32) -> Counted:
    """A model of which only the gradients' fp32 size is known: as many layers, alike, of ResNet-50's work."""
    return Counted(((num_bytes / pieces, 4.1e9 / pieces),) * pieces)


@functools.cache
def _names() -> tuple[dict[str, str], dict[str, str]]:
    detectors = torchvision.models.list_models(module=torchvision.models.detection)
    return (
        {_plain(each): each for each in timm.list_models()} | {_plain("resnet50 v1.5"): "resnet50"},
        {_plain(each): each for each in detectors},
    )


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())


def _count_detector(name: str) -> Counted:
    """Backbone by layer; heads, whose work depends on what is in the picture, by torchvision's own count."""
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
        backbone = _forward(model.backbone, torch.empty(1, 3, *(model.transform.fixed_size or _PHOTO)))
    total = 1e9 * torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
    heads = [_own_bytes(each) for part, each in model.named_modules() if not part.startswith("backbone")]
    rest = max(0.0, total - sum(work for _, work in backbone)) / sum(heads)
    return Counted(
        (*backbone, *((size, rest * size) for size in heads if size)), uneven=not model.transform.fixed_size
    )


def _forward(model: nn.Module, image: torch.Tensor) -> tuple[tuple[float, float], ...]:
    layers: list[tuple[float, float]] = []

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        layers.append((_own_bytes(module), _multiply_adds(module, output)))

    for module in model.modules():
        if _own_bytes(module):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(image)
    return tuple(layers)


def _own_bytes(module: nn.Module) -> float:
    return float(4 * sum(parameter.numel() for parameter in module.parameters(recurse=False)))


def _multiply_adds(module: nn.Module, output: torch.Tensor) -> float:
    weight = getattr(module, "weight", None)
    if weight is None or not isinstance(output, torch.Tensor):
        return 0.0
    # Each output value is the product of one row of the weight with as many inputs.
    return float(output.numel() * weight.numel() / weight.shape[0])
