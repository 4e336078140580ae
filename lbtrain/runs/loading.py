"""A checkpoint as it was read, and whether it fits the run that would go on from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lbtrain.engines.protocol import EngineState
from lbtrain.errors import RecipeError, reason_of
from lbtrain.recipe import Recipe
from lbtrain.runs.progress import Progress

OWN = ("state_dict", "optimizer", "loss_scale", "progress", "recipe")
"""What every checkpoint holds."""
SCALE_STEPS, FINGERPRINT, SECONDS = "loss_scale_steps", "fingerprint", "seconds"
"""What none held at first: those go on from 0, and are compared with nothing."""
BEST = "best"
"""What one holds that was saved because its evaluation was the best so far."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint as it was read, and a line for each newer one that is damaged and was skipped."""

    path: Path
    state: EngineState
    progress: Progress
    extras: dict[str, Any]
    """What techniques had to remember, by name."""
    skipped: list[str]
    checksum: str
    """SHA-256 of the file: another one, other weights."""
    fingerprint: Mapping[str, str]
    """Of the run that saved it (lbtrain.runs.fingerprint)."""
    recipe_yaml: str
    seconds: float = 0.0
    """How long the run had taken, its earlier starts included."""
    best: Mapping[str, float] = field(default_factory=dict)
    """The value for which it was saved as the best, by its metric; empty for any other."""

    @property
    def recipe(self) -> Recipe:
        return recipe_in(self.path, self.recipe_yaml)

    def check_fits(self, model: nn.Module) -> None:
        """Raises RecipeError unless weights and optimizer states are those of `model` and its parameters, by
        name, shape and type.
        """
        here, weights = model.state_dict(), self.state["model"]
        for names, what in (
            (here.keys() - weights.keys(), "lacks"),
            (weights.keys() - here.keys(), "has, and the model has not,"),
        ):
            if names:
                raise _not_this_run(self.path, f"it {what} {min(names)} ({len(names)} such names)")
        for name, tensor in here.items():
            _check_alike(self.path, name, weights[name], tensor, tensor.dtype)
        parameters = dict(model.named_parameters())
        for name, states in self.state["optimizer"].items():
            if name not in parameters:
                raise _not_this_run(
                    self.path, f"it has optimizer states of {name}, which is not a parameter of the model"
                )
            for key, value in states.items():
                if value.dim():  # a counter has no dimensions
                    _check_alike(self.path, f"{name}, {key}", value, parameters[name], torch.float32)

    def restore_extras(self, load: Callable[[Mapping[str, Any]], None]) -> None:
        """Lets techniques `load` what they had to remember. Raises RecipeError where it is not there, or is
        not theirs.
        """
        try:
            load(self.extras)
        except RecipeError:
            raise
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _not_this_run(
                self.path, f"what a technique keeps in it is not there ({type(error).__name__}: {error})"
            ) from error


def read_checkpoint(path: Path, skipped: list[str], checksum: str) -> LoadedCheckpoint:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # whatever torch makes of bytes that it did not write, or of code that it refuses to load
    except Exception as error:
        raise _not_this_run(path, f"it cannot be read ({reason_of(error)})") from error
    missing = [name for name in OWN if name not in content] if isinstance(content, dict) else list(OWN)
    if missing:
        raise _not_this_run(path, f"it lacks {', '.join(missing)}")
    weights, states, scale = content["state_dict"], content["optimizer"], content["loss_scale"]
    if not (
        _all(weights, Tensor) and _all(states, dict) and all(_all(state, Tensor) for state in states.values())
    ):
        raise _not_this_run(path, "its weights and optimizer states are not tensors by name")
    if not (isinstance(scale, int | float) and 0 < scale < float("inf")):
        raise _not_this_run(path, f"loss_scale={scale!r} is not a positive number")
    steps = content.get(SCALE_STEPS, 0)
    if not (type(steps) is int and steps >= 0):
        raise _not_this_run(path, f"{SCALE_STEPS}={steps!r} is not a number of steps")
    told = content["progress"]
    if not (_all(told, int) and told.keys() == vars(Progress()).keys() and min(told.values()) >= 0):
        raise _not_this_run(path, f"progress={told!r} is not a position in a run")
    fingerprint = content.get(FINGERPRINT, {})
    if not _all(fingerprint, str):
        raise _not_this_run(path, "its fingerprint does not consist of texts by name")
    seconds = content.get(SECONDS, 0.0)
    if not (type(seconds) is float and 0 <= seconds < float("inf")):
        raise _not_this_run(path, f"{SECONDS}={seconds!r} is not a time")
    best = content.get(BEST, {})
    if not _all(best, float):
        raise _not_this_run(path, f"{BEST}={best!r} is not a value by the name of its metric")
    own = (*OWN, SCALE_STEPS, FINGERPRINT, SECONDS, BEST)
    extras = {name: value for name, value in content.items() if name not in own}
    state = {"model": weights, "optimizer": states, "loss_scale": scale, SCALE_STEPS: steps}
    recipe = str(content["recipe"])
    return LoadedCheckpoint(
        path, state, Progress(**told), extras, skipped, checksum, fingerprint, recipe, seconds, best
    )


def recipe_in(path: Path, text: str) -> Recipe:
    """What a checkpoint holds under `recipe`. Raises RecipeError."""
    try:
        return Recipe.from_yaml(text)
    except RecipeError as error:
        raise RecipeError(f"{path}: the recipe in it cannot be read: {error}") from error


def _all(values: Any, kind: type) -> bool:
    """Whether these are values of a kind, by name."""
    return isinstance(values, dict) and all(
        isinstance(name, str) and type(value) is kind for name, value in values.items()
    )


def _check_alike(path: Path, name: str, found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    if (found.shape, found.dtype) != (expected.shape, dtype):
        there, here = (
            f"{tuple(shape)} of {kind}"
            for shape, kind in ((found.shape, found.dtype), (expected.shape, dtype))
        )
        raise _not_this_run(path, f"{name} has shape {there} in it, and {here} in this run")


def _not_this_run(path: Path, why: str) -> RecipeError:
    return RecipeError(
        f"{path} is not a checkpoint of this run, though its checksum is right: {why}. Remove it, and the "
        "run goes on from the one before; or choose another run_dir"
    )
