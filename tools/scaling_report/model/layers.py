"""Gradient bytes and multiply-adds of each layer of a model, counted without data or weights.

Classifiers are timm's, and torchvision's where timm has none of the name (AlexNet, "ViT-B/16"). Detectors are
torchvision's (what they are built as in detectron2 differs by under 1% in gradient bytes). Names are read in
any case and punctuation, so "ResNet-50" and "Mask R-CNN" are found.
"""

import difflib
import functools
import re
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from lbtrain.errors import RecipeError

from .comm import fill_buckets

# Up to here --gradient-bytes is of a value, above it of all gradients of a model.
VALUE_BYTES = 8
BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}
_PHOTO = (800, 1088)  # of COCO, resized as most detectors do

# What papers call models that timm calls otherwise.
_PAPERS = {
    "ResNet-50 v1": "resnet50",
    "ResNet-50 v1.5": "resnet50",
    "ViT-Ti/16": "vit_tiny_patch16_224",
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-B/32": "vit_base_patch32_224",
    "ViT-L/16": "vit_large_patch16_224",
    "ViT-H/14": "vit_huge_patch14_224",
    "DeiT-Ti": "deit_tiny_patch16_224",
    "DeiT-S": "deit_small_patch16_224",
    "DeiT-B": "deit_base_patch16_224",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "Swin-S": "swin_small_patch4_window7_224",
    "Swin-B": "swin_base_patch4_window7_224",
    "ConvNeXt-T": "convnext_tiny",
    "ConvNeXt-S": "convnext_small",
    "ConvNeXt-B": "convnext_base",
}


@dataclass(frozen=True, slots=True)
class Counted:
    """`layers`: (gradient bytes in fp32, multiply-adds of one image) in forward order. `uneven`: images of a
    batch differ in what they take, as a detector's do. `only_bytes`: the multiply-adds are assumed.
    """

    layers: tuple[tuple[float, float], ...]
    uneven: bool = False
    only_bytes: bool = False

    @property
    def work(self) -> float | None:
        """Multiply-adds of one image's forward pass; None where they are not known."""
        return None if self.only_bytes else sum(work for _, work in self.layers)


@functools.cache
def count_model(name: str) -> Counted:
    """Count the model that `name` spells. Raises RecipeError with close names where there is none.

    Multiply-adds stand in for time. They overstate layers that are limited by arithmetic against those
    limited by memory, but what matters here is when the large late layers' gradients are ready, and that they
    get right.
    """
    classifiers, others, detectors = _names()
    if found := _among(classifiers, name):
        with torch.device("meta"):
            model = timm.create_model(found).eval()
            image = torch.empty(1, *timm.data.resolve_model_data_config(model)["input_size"])
        return Counted(_forward(model, image))
    if found := _among(others, name):
        image = torch.empty(1, 3, 224, 224, device="meta")
        return Counted(_forward(_torchvision_model(found).eval(), image))
    # "Mask R-CNN" is the simplest of its kind: the shortest name that begins so.
    plain = re.sub("(?<=rcnn)r(?=50)", "resnet", _plain(name))
    if begins := sorted((each for each in detectors if each.startswith(plain)), key=len):
        return _count_detector(detectors[begins[0]])
    known = classifiers | others | detectors
    near = difflib.get_close_matches(_plain(name), known, n=6)
    close = list(dict.fromkeys(known[each] for each in near))[:3]
    hint = f"did you mean {', '.join(close)}? " if close else ""
    raise RecipeError(
        f"neither timm nor torchvision's detection has a model {name!r}: {hint}For any other model give its "
        "gradients' size, --gradient-bytes 178MB"
    )


def of_model(model: str | None, gradient_bytes: float) -> dict[str, Any]:
    """What a job takes from its model, by a job's names. `gradient_bytes` is of an exchanged value, or above
    VALUE_BYTES of all gradients as they are exchanged; then the model may be unknown.
    """
    if not model:
        counted, value_bytes = _evenly_spread(gradient_bytes), 4.0
    else:
        counted, value_bytes = count_model(model), gradient_bytes
        if gradient_bytes > VALUE_BYTES:
            value_bytes = 4 * gradient_bytes / sum(size for size, _ in counted.layers)
    return {
        "buckets": fill_buckets(counted.layers).scaled(value_bytes / 4),
        "gradient_bytes": value_bytes,
        "work": counted.work,
        "uneven": counted.uneven,
    }


def _evenly_spread(num_bytes: float) -> Counted:
    """A model of which only the gradients' fp32 size is known: 32 layers, alike."""
    return Counted(((num_bytes / 32, 1.0),) * 32, only_bytes=True)


@functools.cache
def _names() -> tuple[dict[str, str], ...]:
    """By plain name, with and without dots: classifiers of timm, of torchvision, and detectors."""
    others, detectors = (
        torchvision.models.list_models(module=module)
        for module in (torchvision.models, torchvision.models.detection)
    )
    # Hooks do not see the attention of torchvision's transformers; timm has the same models.
    others = [each for each in others if not each.startswith(("vit", "swin"))]
    names = [
        {_plain(each): each for each in found} | {_dotted(each): each for each in found}
        for found in (timm.list_models(), others, detectors)
    ]
    names[0] |= {_plain(each): found for each, found in _PAPERS.items()}
    return tuple(names)


def _among(names: dict[str, str], text: str) -> str | None:
    return names.get(_dotted(text)) or names.get(_plain(text))


def _dotted(text: str) -> str:
    """Letters and figures, and a dot where anything is between figures: regnet_y_1_6gf is 1.6, not 16."""
    return re.sub(r"[^a-z0-9.]", "", re.sub(r"(?<=\d)[^a-z0-9]+(?=\d)", ".", text.lower()))


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())


def _torchvision_model(name: str) -> nn.Module:
    try:
        with torch.device("meta"):
            return torchvision.models.get_model(name, weights=None)
    except NotImplementedError:  # RegNets work out their widths in tensors, which must have values
        return torchvision.models.get_model(name, weights=None).to("meta")


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
