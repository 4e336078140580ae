"""A trained model as a checkpoint holds it: its recipe, its weights and what they need to be used."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lbtrain.data import DatasetInfo
from lbtrain.data.pixels import LEVELS_BEFORE
from lbtrain.errors import RecipeError, naming_what_is_closed, reason_of
from lbtrain.launch.world import detect_world
from lbtrain.recipe import Recipe
from lbtrain.runs.checkpoint_files import check_whole, newest_whole
from lbtrain.runs.loading import recipe_in
from lbtrain.tasks import build_model

AVERAGE = "state_dict_ema"


@dataclass(frozen=True)
class TrainedModel:
    """`path` is the checkpoint, `run_dir` the directory that its run wrote, where it lies in one."""

    path: Path
    run_dir: Path
    recipe: Recipe
    weights: dict[str, Tensor]
    averaged: bool
    class_names: list[str]
    inputs: Mapping[str, Any]
    """How an image becomes an input: channels, size, mean, std (not in old checkpoints of detectors), and of
    a classifier crop_share and interpolation.
    """
    step: int
    fingerprint: Mapping[str, str]

    @property
    def architecture(self) -> Recipe:
        """The recipe without what its network started from: files that need not be there any more."""
        args = _without_start(self.recipe.model.args)
        return self.recipe.vary(model=dict(weights="", freeze=[], args=args))

    def build(self) -> nn.Module:
        """The network with these weights, for evaluation. Needs no data."""
        levels = [tuple(self.inputs.get(key, own)) for key, own in LEVELS_BEFORE.items()]
        size, channels = self.inputs["size"], self.inputs["channels"]
        info = DatasetInfo(0, 0, len(self.class_names), channels, size, *levels)
        model = build_model(self.architecture, info)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise RecipeError(f"{self.path} does not fit the model of its own recipe: {reason}") from error
        return model.eval()

    def weights_in_words(self) -> str:
        return "the average of the weights" if self.averaged else "the weights"


def _without_start(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a network, and of the backbone in it."""
    return {
        key: _without_start(value) if isinstance(value, Mapping) else value
        for key, value in args.items()
        if key not in ("pretrained", "checkpoint_path")
    }


def open_trained(name: str, *, raw: bool) -> TrainedModel:
    """A run directory (its newest checkpoint that is whole) or a checkpoint file. The average of the weights
    is taken where the run kept one, unless `raw`. Raises RecipeError for what is neither, is damaged or
    cannot be read.
    """
    with naming_what_is_closed(name):
        path = _checkpoint(Path(name).expanduser())
    content = _content(path)
    averaged = AVERAGE in content and not raw
    return TrainedModel(
        path=path,
        run_dir=path.parent.parent if path.parent.name == "checkpoints" else path.parent,
        recipe=dataclasses.replace(recipe_in(path, content["recipe"]), expect=None),
        weights=content[AVERAGE if averaged else "state_dict"],
        averaged=averaged,
        class_names=content["class_names"],
        inputs=content["inputs"],
        step=content["progress"]["step"],
        fingerprint=content.get("fingerprint", {}),
    )


def _checkpoint(path: Path) -> Path:
    if path.is_file():
        check_whole(path)
        return path
    found = newest_whole(path / "checkpoints")
    if not found:
        what = "holds no checkpoint (checkpoints/step_*.pt)" if path.is_dir() else "does not exist"
        raise RecipeError(f"{path} {what}. Give a run directory, such as runs/digits, or a checkpoint file.")
    if detect_world().rank == 0:
        for line in found.skipped:
            print(line, file=sys.stderr)
    return found.path


def _content(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of bytes it did not write, or of code it does not load
        raise RecipeError(f"{path} cannot be read as a checkpoint: {reason_of(error)}") from error
    expected = ("state_dict", "recipe", "progress", "class_names", "inputs")
    missing = [key for key in expected if not isinstance(content, dict) or key not in content]
    if missing:
        raise RecipeError(
            f"{path} is not a checkpoint that this version of lbtrain wrote: it lacks {', '.join(missing)}. "
            "Resume the run for a step to write a new one."
        )
    return content
