"""detectron2's configs, yaml or LazyConfig, with a recipe's values in them: network, mapper and weights, or
an error that names what is wrong.

detectron2 silently accepts some unknown names and raises unrelated errors for others; here each is a
RecipeError. Whatever needs neither data nor weights is checked when a plan is made.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe
from lbtrain.tasks.pickles import load_arrays

_REFUSALS = (AssertionError, AttributeError, KeyError, TypeError, ValueError)
"""What detectron2 raises for a name or a value that it does not know."""


def config_of(recipe: Recipe, num_classes: int) -> Any:
    """The config of `model.name` with `model.args` in it. Raises RecipeError where it is not there, or where
    detectron2 is not.
    """
    try:
        from detectron2 import model_zoo
        from detectron2.config import CfgNode
    except ImportError as error:
        raise RecipeError(
            f"model.library=detectron2 needs detectron2, which is not installed here ({error}): its "
            "installation page says how, "
            "docs/detection.md what it needs beside it; or use model.library=torchvision"
        ) from error
    try:
        config = model_zoo.get_config(recipe.model.name)
        if isinstance(config, CfgNode):
            norm = {} if recipe.model.batch_norm == "frozen" else {"MODEL.RESNETS.NORM": "BN"}
            fixed = {
                "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
                "MODEL.DEVICE": str(torch.get_default_device()),
            } | norm
            config.merge_from_list([word for pair in (fixed | recipe.model.args).items() for word in pair])
    except (RuntimeError, *_REFUSALS) as error:
        raise RecipeError(_cannot_be(recipe, error)) from error
    return config if isinstance(config, CfgNode) else _lazy_with(config, recipe, num_classes)


def _cannot_be(recipe: Recipe, error: Exception) -> str:
    return (
        f"model.name={recipe.model.name} with model.args={recipe.model.args}: {type(error).__name__}: {error}"
    )


_LAZY_NORMS = ("model.backbone.bottom_up.stem.norm", "model.backbone.bottom_up.stages.norm")
"""Where the LazyConfigs of a ResNet have what MODEL.RESNETS.NORM is in a yaml."""

_PARTS = ("model.", "dataloader.train.mapper.", "dataloader.test.mapper.")
"""Of a LazyConfig, what is built from it: an argument that it leaves at its default may be set, and a wrong
one is rejected by its part.
"""


def _lazy_with(config: Any, recipe: Recipe, num_classes: int) -> Any:
    """A LazyConfig with the number of classes, the recipe's `batch_norm` and `model.args` in it. Raises
    RecipeError where it has no such batch norm to set, or no such key.
    """
    if OmegaConf.select(config, "model.roi_heads") is None:
        raise RecipeError(_no_mask_rcnn(recipe))
    norms = {} if recipe.model.batch_norm == "frozen" else dict.fromkeys(_LAZY_NORMS, "BN")
    missing = [name for name in norms if OmegaConf.select(config, name) is None]
    if missing:
        raise RecipeError(
            f"model.batch_norm={recipe.model.batch_norm}: {recipe.model.name} has no "
            f"{' and '.join(missing)} to set. Use "
            "model.batch_norm=frozen, which leaves its layers as they are"
        )
    for name, value in ({"model.roi_heads.num_classes": num_classes} | norms | recipe.model.args).items():
        _set(config, name, value, recipe)
    return config


def _set(config: Any, name: str, value: Any, recipe: Recipe) -> None:
    """Not LazyConfig.apply_overrides, which takes words, and without hydra cannot read a string among
    them.
    """
    needed = name.rpartition(".")[0] if name.startswith(_PARTS) else name
    try:
        if OmegaConf.select(config, needed, default=config) is config:  # OmegaConf.update would make it
            raise RecipeError(
                f"model.args: {recipe.model.name} has no {needed}, so {name} would change nothing"
            )
        OmegaConf.update(config, name, value)
    except (OmegaConfBaseException, IndexError) as error:
        raise RecipeError(_cannot_be(recipe, error)) from error


def _no_mask_rcnn(recipe: Recipe) -> str:
    return (
        f"model.name={recipe.model.name} is not a Mask R-CNN that learns from boxes and masks alone, with "
        "proposals of its own: take a config of COCO-InstanceSegmentation, such as mask_rcnn_R_50_FPN_1x.yaml"
    )


def network_of(config: Any, recipe: Recipe) -> nn.Module:
    """The network with random weights. Raises RecipeError where detectron2 cannot build it, or where it
    cannot be trained here.
    """
    from detectron2.config import CfgNode, instantiate
    from detectron2.modeling import build_model as build

    try:
        model = cast(nn.Module, build(config) if isinstance(config, CfgNode) else instantiate(config.model))
    except _REFUSALS as error:  # a LazyConfig takes any key; its parts know what they take
        raise RecipeError(_cannot_be(recipe, error)) from error
    _check_kind(model, recipe)
    return model


def _check_kind(model: nn.Module, recipe: Recipe) -> None:
    """Raises RecipeError for a network that needs more than boxes and masks, or less, and for a batch norm
    that cannot be a ghost's.
    """
    from detectron2.modeling import GeneralizedRCNN

    heads, proposals = (getattr(model, name, None) for name in ("roi_heads", "proposal_generator"))
    has_masks_alone = getattr(heads, "mask_on", False) and not getattr(heads, "keypoint_on", False)
    if not (type(model) is GeneralizedRCNN and has_masks_alone and hasattr(proposals, "_subsample_labels")):
        raise RecipeError(_no_mask_rcnn(recipe))
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if type(module) is not nn.BatchNorm2d or name.startswith("roi_heads."):
            keys = _LAZY_NORM_KEYS if recipe.model.name.endswith(".py") else _YAML_NORM_KEYS
            other = "ghost" if recipe.model.batch_norm == "frozen" else "frozen"
            raise RecipeError(
                f"model.name={recipe.model.name} with model.batch_norm={recipe.model.batch_norm}: {name} is "
                f"a {type(module).__name__}, and "
                "batch norm here is BN over bn_batch_size images, and none in the heads, whose batch is of "
                "proposals. Set others, such "
                f"as GN, by model.args: {', '.join(keys)}; if it is the ResNet's own, "
                f"model.batch_norm={other}"
            )


_YAML_NORM_KEYS = ("MODEL.FPN.NORM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM")
_LAZY_NORM_KEYS = (
    "model.backbone.norm",
    "model.roi_heads.box_head.conv_norm",
    "model.roi_heads.mask_head.conv_norm",
)
"""Where the norms of pyramid and heads are set in either kind of config."""


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What files of frozen layers leave out."""
_OFFSETS = ".conv2_offset."
"""Layers of deformable convolutions, which start at zero: no classifier has them."""


def load_weights(model: nn.Module, path: str) -> None:
    """As detectron2 loads a file. Raises RecipeError where it cannot be read, names more than arrays and
    tensors (detectron2 itself would run it), or does not hold the backbone, which detectron2 only logs.
    """
    from detectron2.checkpoint import DetectionCheckpointer

    checkpointer = DetectionCheckpointer(model)
    outcomes: list[Any] = []
    checkpointer._log_incompatible_keys = outcomes.append
    try:
        _check_pickle(Path(checkpointer.path_manager.get_local_path(path)))
        checkpointer.load(path)
    # A bare AssertionError, ValueError, or whatever pickle makes of bytes that it did not write.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise RecipeError(
            f"model.weights={path} cannot be read as weights of detectron2: {type(error).__name__}: {reason}"
        ) from error
    body = "backbone.bottom_up." if hasattr(model.backbone, "bottom_up") else "backbone."
    names = [name for outcome in outcomes for name in outcome.missing_keys]
    missing = [
        name
        for name in names
        if name.startswith(body) and not name.endswith(_STATISTICS) and _OFFSETS not in name
    ]
    if missing:
        raise RecipeError(
            f"model.weights={path} lacks {', '.join(missing[:3])}, or has other shapes there: are they of "
            "this backbone?"
        )


def _check_pickle(path: Path) -> None:
    """Raises UnpicklingError where reading `path` would run more than the making of arrays and tensors."""
    if path.suffix == ".pkl":
        load_arrays(path)
    else:
        torch.load(path, weights_only=True, map_location="cpu", mmap=False)


def mapper_of(config: Any, is_train: bool, recipe: Recipe) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """detectron2's mapper of training or of evaluation. Raises RecipeError for a setting that it does not
    take.
    """
    from detectron2.config import CfgNode, instantiate
    from detectron2.data import DatasetMapper

    try:
        if isinstance(config, CfgNode):
            return cast(Callable[..., Any], DatasetMapper(config, is_train))
        return cast(
            Callable[..., Any],
            instantiate((config.dataloader.train if is_train else config.dataloader.test).mapper),
        )
    except _REFUSALS as error:
        raise RecipeError(_cannot_be(recipe, error)) from error
