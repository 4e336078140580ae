"""Checkpoints: one file with full named tensors, readable by any engine, any world size, and timm's
`checkpoint_path=`.

A file is written under another name, flushed to the disk and renamed, so a crash leaves the old ones whole; a
checksum beside it tells a damaged one, and then the one before it is used. Files hold tensors, numbers and
text only and are read with `weights_only=True`.

Training does not wait for the disk: a thread writes the state, which is a copy, while the next steps are
made.
"""

import contextlib
import copy
import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lbtrain.engines.protocol import EngineState
from lbtrain.errors import RecipeError, SaveFailed
from lbtrain.runs.files import open_to_read, read_whole, write_whole

OWN = ("state_dict", "optimizer", "loss_scale", "progress", "recipe")
"""What every checkpoint holds."""
_SCALE_STEPS, _FINGERPRINT = "loss_scale_steps", "fingerprint"
"""What none held at first: those go on from 0, and are compared with nothing."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands: all that has to be remembered besides the engine's state."""

    examples: int = 0
    step: int = 0
    skipped_steps: int = 0

    def after(self, batch_size: int, *, updated: bool) -> "Progress":
        """After one more step, whose update was applied or skipped."""
        return Progress(self.examples + batch_size, self.step + 1, self.skipped_steps + (not updated))


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
                    self.path, (f"it has optimizer states of {name}, which is no parameter of the model")
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
                self.path, (f"what a technique keeps in it is not there ({type(error).__name__}: {error})")
            ) from error


class Checkpoints:
    """The checkpoints of one run, in `run_dir/checkpoints`; the `keep` newest stay, not counting damaged ones
    that were skipped.
    """

    def __init__(self, run_dir: Path, *, keep: int):
        self.folder = run_dir / "checkpoints"
        self.keep = keep
        self.fingerprint: Mapping[str, str] = {}
        self._writer: threading.Thread | None = None
        self._failure: SaveFailed | None = None
        self._skipped: set[Path] = set()

    def save(
        self,
        state: EngineState,
        progress: Progress,
        recipe_yaml: str,
        extras: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to write a checkpoint, when the one before is written, with `extras` (tensors, numbers, text
        by name) beside the rest.

        The caller must leave `state` alone. Raises as `wait` does.
        """
        self.wait()
        self._writer = threading.Thread(
            target=self._write_or_note, args=(state, progress, recipe_yaml, copy.deepcopy(extras))
        )
        self._writer.start()

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk. Raises SaveFailed if the disk did not take it; the
        older ones are whole.
        """
        if self._writer:
            self._writer.join()
            self._writer = None
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure

    def _write_or_note(
        self, state: EngineState, progress: Progress, recipe_yaml: str, extras: Mapping[str, Any] | None
    ) -> None:
        try:
            self._write(state, progress, recipe_yaml, extras)
        # whatever it is: noted, or this thread ends without a word and the run without its checkpoint
        except Exception as error:
            # of a disk that has become read-only; the next save or start removes it
            with contextlib.suppress(OSError):
                self._remove_unfinished()
            # torch turns an error of the file into one of its own.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            why = str(cause) or type(cause).__name__  # a MemoryError has no words
            good = self._not_skipped()
            last = (
                (f"{good[-1]} is whole: the same command goes on from it")
                if good
                else "there is none before it"
            )
            self._failure = SaveFailed(
                f"the checkpoint of step {progress.step} could not be written to "
                f"{self.folder} ({why}); {last}"
            )

    def _write(
        self, state: EngineState, progress: Progress, recipe_yaml: str, extras: Mapping[str, Any] | None
    ) -> None:
        """Writes one checkpoint and then removes the oldest, and damaged ones that it replaces."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        content = {
            "state_dict": state["model"],  # the key under which timm and most others look for weights
            "optimizer": state["optimizer"],
            "loss_scale": state["loss_scale"],
            _SCALE_STEPS: state[_SCALE_STEPS],
            "progress": vars(progress),
            "recipe": recipe_yaml,
            _FINGERPRINT: dict(self.fingerprint),
        } | dict(extras or {})
        path = self.folder / f"step_{progress.step:09}.pt"
        new = path.with_suffix(".new")
        with new.open("xb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        write_whole(_checksum_path(path), _sha256(new) + "\n")
        new.replace(path)
        _sync_folder(self.folder)  # before anything older goes: the new name must outlive a power cut
        self._skipped.discard(path)
        paths = self._paths()
        replaced = self._skipped & set(paths[: paths.index(path)])
        for old in [*self._not_skipped()[: -self.keep], *replaced]:
            old.unlink()
            _checksum_path(old).unlink(missing_ok=True)

    def _remove_unfinished(self) -> None:
        """What a crash or a full disk has left; the run directory is this job's alone."""
        for path in self.folder.glob("step_*.new"):
            path.unlink(missing_ok=True)

    def newest(self) -> LoadedCheckpoint | None:
        """The newest undamaged checkpoint; None if there is none at all.

        Raises RecipeError if every checkpoint is damaged: going on from nothing would lose the run; and if
        the newest undamaged one does not hold what a checkpoint holds: somebody has changed it.
        """
        damaged: list[str] = []
        for path in reversed(self._paths()):
            if checksum := _matching_checksum(path):
                return _read(path, damaged, checksum)
            damaged.append(f"{path} is damaged (its checksum differs): skipped")
            self._skipped.add(path)
        if damaged:
            raise RecipeError(
                "; ".join(damaged) + (". No good checkpoint is left: choose another run_dir to start anew")
            )
        return None

    def _not_skipped(self) -> list[Path]:
        return [path for path in self._paths() if path not in self._skipped]

    def _paths(self) -> list[Path]:
        found = (
            path for path in self.folder.glob("step_*.pt") if re.fullmatch(r"step_\d{9,}\.pt", path.name)
        )
        return sorted(found, key=lambda path: int(path.stem.removeprefix("step_")))


def _read(path: Path, skipped: list[str], checksum: str) -> LoadedCheckpoint:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # whatever torch makes of bytes that it did not write, or of code that it refuses to load
    except Exception as error:
        raise _not_this_run(path, f"it cannot be read ({str(error).strip().splitlines()[0]})") from error
    missing = [name for name in OWN if name not in content] if isinstance(content, dict) else list(OWN)
    if missing:
        raise _not_this_run(path, f"it lacks {', '.join(missing)}")
    weights, states, scale = content["state_dict"], content["optimizer"], content["loss_scale"]
    if not (
        _all(weights, Tensor) and _all(states, dict) and all(_all(state, Tensor) for state in states.values())
    ):
        raise _not_this_run(path, "its weights and optimizer states are not tensors by name")
    if not (isinstance(scale, int | float) and 0 < scale < float("inf")):
        raise _not_this_run(path, f"loss_scale={scale!r} is no positive number")
    steps = content.get(_SCALE_STEPS, 0)
    if not (type(steps) is int and steps >= 0):
        raise _not_this_run(path, f"{_SCALE_STEPS}={steps!r} is no number of steps")
    told = content["progress"]
    if not (_all(told, int) and told.keys() == vars(Progress()).keys() and min(told.values()) >= 0):
        raise _not_this_run(path, f"progress={told!r} is no position in a run")
    fingerprint = content.get(_FINGERPRINT, {})
    if not _all(fingerprint, str):
        raise _not_this_run(path, "its fingerprint does not consist of texts by name")
    own = (*OWN, _SCALE_STEPS, _FINGERPRINT)
    extras = {name: value for name, value in content.items() if name not in own}
    state = {"model": weights, "optimizer": states, "loss_scale": scale, _SCALE_STEPS: steps}
    return LoadedCheckpoint(path, state, Progress(**told), extras, skipped, checksum, fingerprint)


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
        f"{path} is no checkpoint of this run, though its checksum is right: {why}. Remove it, and the run "
        "goes on from the one before; "
        "or choose another run_dir"
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _matching_checksum(path: Path) -> str:
    """Of a checkpoint that is as it was written; empty for one that is damaged, or whose checksum is."""
    with contextlib.suppress(OSError, ValueError):
        checksum = read_whole(_checksum_path(path), most=100).decode().strip()
        return checksum if checksum == _sha256(path) else ""
    return ""


def _sha256(path: Path) -> str:
    with open_to_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
