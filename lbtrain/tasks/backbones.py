"""timm networks as backbones of a detector: the feature maps that its pyramid stands on, and what of them is
loaded, trained and frozen.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe
from lbtrain.tasks.timm_models import create_model

STRIDES = (4, 8, 16, 32)
"""Of the feature maps that the pyramid of an R-CNN stands on."""


def levels_of(recipe: Recipe, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of the network's feature maps at `strides`, the deepest of each. Raises RecipeError for a
    network that has not all of them, or does not make them, channels first, of an image of any size. Looks at
    it on the meta device: no memory, no random numbers.
    """
    named = f"model.name={recipe.model.name} with {recipe.model.args.get('backbone', {})}"
    with torch.device("meta"):
        last: Any = _features(recipe, (-1,))  # not the first, for which some have no module
        info = last.feature_info.info
        numbers = {each["reduction"]: number for number, each in enumerate(info)}
        if not numbers.keys() >= set(strides):
            found, needed = ", ".join(map(str, numbers)), ", ".join(map(str, strides))
            raise RecipeError(
                f"{named} has feature maps of strides {found}: a pyramid stands on those of {needed}, as "
                "resnet50 has them"
            )
        levels = tuple(numbers[stride] for stride in strides)
        _check_shapes(_features(recipe, levels), strides, named)
    return levels


def _check_shapes(body: nn.Module, strides: tuple[int, ...], named: str) -> None:
    height, width = 128, 192
    channels = cast(Any, body).feature_info.channels()
    expected = [
        (count, height // stride, width // stride) for count, stride in zip(channels, strides, strict=True)
    ]
    try:
        shapes = [tuple(feature.shape[1:]) for feature in body(torch.empty(2, 3, height, width))]
    except Exception as error:  # whatever a network makes of an image that has not its size
        raise RecipeError(
            f"{named} takes no image of {height} x {width} pixels, and those of detection have any size: "
            f"{error}"
        ) from error
    if shapes != expected:
        raise RecipeError(
            f"{named} makes features of {shapes} of an image of {height} x {width} pixels: a pyramid takes "
            f"{expected}"
        )


def _features(recipe: Recipe, levels: tuple[int, ...]) -> nn.Module:
    arguments = recipe.model.args.get("backbone", {})
    try:
        return create_model(recipe.model.name, arguments, features_only=True, out_indices=levels)
    except RecipeError as error:
        raise RecipeError(f"as a backbone that returns feature maps, {error}") from error


def create_backbone(recipe: Recipe, levels: tuple[int, ...]) -> nn.Module:
    """The network, giving its feature maps `levels`. Raises RecipeError for what does not fit it."""
    body = _features(recipe, levels)
    _freeze(body, recipe.model.args.get("frozen", ()))
    return freeze_batch_norm_2d(body) if recipe.model.batch_norm == "frozen" else body


def _freeze(body: nn.Module, frozen: Sequence[str]) -> None:
    """Does not train what begins with one of the names `frozen`. Raises RecipeError for a name that no
    parameter begins with.
    """
    named = {_without_prefix(name): parameter for name, parameter in body.named_parameters()}
    unknown = [start for start in frozen if not any(name.startswith(start) for name in named)]
    if unknown:
        known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in named))
        raise RecipeError(
            f"model.args frozen: no parameter of the backbone begins with {', '.join(unknown)}: it has "
            f"{known}"
        )
    for name, parameter in named.items():
        parameter.requires_grad_(not name.startswith(tuple(frozen)))


def under_names_of(body: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A backbone calls some layers otherwise than its classifier: timm writes features_0 for features.0, or
    puts model. or body. before.
    """
    own = {_joined(name): name for name in body.state_dict()}
    return {own.get(_joined(name), name): tensor for name, tensor in weights.items()}


def _joined(name: str) -> str:
    return _without_prefix(name).replace(".", "_")


def _without_prefix(name: str) -> str:
    """As the network calls it, without what timm puts before where it reads features by hooks."""
    return name.removeprefix("model.").removeprefix("body.")
