"""Models of timm by name and arguments: every error of a constructor or of a first forward pass becomes one
RecipeError that names the argument which helps.
"""

import contextlib
import difflib
import inspect
import logging
import re
import sys
import traceback
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

import lbtrain.nn  # noqa: F401  registers its models with timm
from lbtrain.errors import RecipeError

_SIZES = (32, 64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)
"""Pixels a side that are tried when a model does not take the images of the recipe."""
_RATE = re.compile(r"(\w+_)?drop(_\w+)?_rate")
"""Above 1 timm builds layers that drop everything, and they train nothing without a word."""
_SET_BY_DATA = ("num_classes", "in_chans")


def create_classifier(name: str, args: dict[str, Any], *, num_classes: int, channels: int) -> nn.Module:
    """timm.create_model; scores for `num_classes` from images of `channels`. Raises RecipeError."""
    for key in _SET_BY_DATA:
        if key in args:
            raise RecipeError(f"model.args={args}: {key} is set by the data set. Leave it out")
    for key, value in args.items():
        if _RATE.fullmatch(key) and isinstance(value, int | float) and not 0 <= value < 1:
            raise RecipeError(
                f"model.args={args}: {key} is a share of what is dropped, at least 0 and below 1"
            )
    if args.get("features_only"):
        raise RecipeError(
            f"model.args={args}: with features_only=true the model returns feature maps, and a classifier "
            "returns scores. Leave it out"
        )
    return create_model(name, args, num_classes=num_classes, in_chans=channels)


def create_model(name: str, args: dict[str, Any], **ours: Any) -> nn.Module:
    """timm.create_model with the recipe's arguments and ours. Raises RecipeError."""
    checkpoint = args.get("checkpoint_path")
    if checkpoint and not Path(str(checkpoint)).is_file():
        raise RecipeError(f"model.args checkpoint_path={checkpoint} is not a file")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of each of six attempts
    try:
        return cast(nn.Module, timm.create_model(name, **ours, **args))
    except Exception as error:  # a constructor raises whatever its arguments make it stumble over
        explained = _explained(name, args, error) or _first_line(error) + _culprit(name, args, ours)
        raise RecipeError(f"{_described(name, args)}: {explained}") from error


def _described(name: str, args: dict[str, Any]) -> str:
    return f"model.name={name}" + (f" with model.args={args}" if args else "")


def _explained(name: str, args: dict[str, Any], error: Exception) -> str:
    """What is wrong, and what to change; empty where only the error itself tells."""
    reason = _first_line(error)
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", reason)
    if isinstance(error, OSError) and (":" in name or "." in name or args.get("pretrained")):
        return (
            f"the weights cannot be downloaded here ({type(error).__name__}). Use model.weights=FILE with "
            "a file of weights that was downloaded elsewhere"
        )
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        return f"{reason}. " + (
            f"Did you mean {' or '.join(near)}?" if near else "timm.list_models() lists the models"
        )
    if unexpected and unexpected[1] in args:
        kind = re.search(r"(\w+)\.__init__\(\)", reason)
        arguments = sorted(_arguments(name, kind[1] if kind else "") - {unexpected[1]})
        near = difflib.get_close_matches(unexpected[1], arguments, n=1)
        known = f"It takes {', '.join(arguments)}"
        return f"{reason}. " + (f"Did you mean {near[0]}?" if near else known)
    if isinstance(error, KeyError):
        return reason + _unknown_layer(args, str(error.args[0]))
    return ""


def _culprit(name: str, args: dict[str, Any], ours: dict[str, Any]) -> str:
    """The argument without which the model can be made, if there is one."""
    for key in args:
        others = {other: value for other, value in args.items() if other != key}
        with contextlib.suppress(Exception), torch.device("meta"):
            timm.create_model(name, **ours, **others)
            return f". Without {key} it is made: leave it out, or give it another value"
    return ""


def _unknown_layer(args: dict[str, Any], wrong: str) -> str:
    """A layer, such as `norm_layer`, is given by a name that timm has not."""
    keys = [key for key, value in args.items() if str(value).replace("_", "").lower() == wrong]
    if not keys:
        return ""
    if "sync" in wrong:
        return (
            f" is not a value of {keys[0]}. Leave it out: bn_batch_size says over how many images batch norm "
            "takes its statistics, on any number of ranks"
        )
    known = {
        "norm_layer": ". Norms of timm are batchnorm2d, groupnorm, layernorm2d and others",
        "act_layer": ". Activations of timm are relu, silu, gelu and others",
    }
    return f" is not a value of {keys[0]}" + known.get(keys[0], "")


def _arguments(name: str, only: str) -> set[str]:
    """Of the class `only` that the model's function builds; where it is not known, of all that it may."""
    module = sys.modules[timm.model_entrypoint(name).__module__]
    source = inspect.getsource(timm.model_entrypoint(name)) + inspect.getsource(module)
    classes = [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, nn.Module) and f"{kind.__name__}," in source
    ]
    classes = [kind for kind in classes if kind.__name__ == only] or classes
    named = {argument for kind in classes for argument in inspect.signature(kind).parameters}
    return named - {"kwargs", "args", "self", *_SET_BY_DATA} | {"checkpoint_path", "pretrained"}


def scores_of(model: nn.Module, images: Tensor, *, name: str, args: dict[str, Any], fixed: str) -> Tensor:
    """The scores (n, classes) that a model on the meta device gives for `images` on it. `fixed`: the data
    set, if its images cannot be resized. Raises RecipeError with the argument that helps.
    """
    try:
        scores = model(images)
    except Exception as error:  # whatever a network makes of images that have not its size
        remedy = "" if _takes(name, args, images) else _other_size(name, args, images, fixed)
        what = f"does not take images of {_shape(images[0])}" if remedy else "cannot be called"
        raise RecipeError(f"{_described(name, args)} {what}: {_first_line(error)}{remedy}") from error
    if not (isinstance(scores, Tensor) and scores.dim() == 2 and scores.shape[0] == images.shape[0]):
        raise RecipeError(
            f"{_described(name, args)} returns {_outputs(scores)} in training, and a classifier returns one "
            f"tensor of {images.shape[0]} x classes for {images.shape[0]} images. Change model.args, or "
            "register a model that returns the scores alone"
        )
    return scores


def _other_size(name: str, args: dict[str, Any], images: Tensor, fixed: str) -> str:
    """A suggestion that was tried; none if no other size helps either."""
    height = images.shape[-1]
    if "img_size" not in args and _takes(name, args | {"img_size": height}, images):
        return f". Use model.args={args | {'img_size': height}}"
    works = [size for size in _SIZES if _takes(name, args, images.new_empty(*images.shape[:2], size, size))]
    if works and fixed:
        return (
            f". The images of {fixed} have {height} pixels a side: use a model for these, cifar_resnet8 say"
        )
    nearest = sorted(works, key=lambda size: abs(size - height))[:2]
    return f". Nearest valid values: data.image_size={', '.join(map(str, sorted(nearest)))}" if works else ""


def _takes(name: str, args: dict[str, Any], images: Tensor) -> bool:
    try:
        with images.device:
            timm.create_model(name, in_chans=images.shape[1], **args)(images)
    except Exception:  # for any reason
        return False
    return True


def _outputs(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {_shape(output)}"
    parts = output.values() if isinstance(output, dict) else output
    shapes = [_outputs(part) for part in parts] if isinstance(output, dict | list | tuple) else []
    return f"a {type(output).__name__}" + (f" ({', '.join(shapes)})" if shapes else "")


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _first_line(error: Exception) -> str:
    """The message, without the full stop that our sentence brings; of an assertion without words, its line in
    the source.
    """
    if isinstance(error, AssertionError) and not str(error):
        line = traceback.extract_tb(error.__traceback__)[-1].line or ""
        return line.removeprefix("assert ") + " does not hold"
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")
