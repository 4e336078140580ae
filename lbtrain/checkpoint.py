"""Checkpoints: one file with full named tensors, readable by any engine, any world size, and timm's `checkpoint_path=`.

A file is written under another name, flushed to the disk and renamed, so a crash leaves the old ones whole; a checksum beside it tells a
damaged one, and then the one before it is used. Files hold tensors, numbers and text only and are read with `weights_only=True`.

Training does not wait for the disk: a thread writes the state, which is a copy, while the next steps are made.
"""

import copy
import hashlib
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lbtrain.engines.protocol import EngineState
from lbtrain.errors import RecipeError, SaveFailed
from lbtrain.records import write_whole

OWN = ("state_dict", "optimizer", "loss_scale", "progress", "recipe")
"""What every checkpoint holds."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands: all that has to be remembered besides the engine's state."""

    examples: int = 0
    step: int = 0
    skipped_steps: int = 0


@dataclass(frozen=True)
class Found:
    """A checkpoint as it was read, and a line for each newer one that is damaged and was passed over."""

    state: EngineState
    progress: Progress
    extras: dict[str, Any]
    """What techniques had to remember, by name."""
    passed_over: list[str]


class Checkpoints:
    """The checkpoints of one run, in `run_dir/checkpoints`; the `keep` newest stay."""

    def __init__(self, run_dir: Path, *, keep: int):
        self.folder = run_dir / "checkpoints"
        self.keep = keep
        self._writer: threading.Thread | None = None
        self._failure: SaveFailed | None = None

    def save(self, state: EngineState, progress: Progress, recipe_yaml: str, extras: Mapping[str, Any] | None = None) -> None:
        """Starts to write a checkpoint, when the one before is written, with `extras` (tensors, numbers, text by name) beside the rest.

        The caller must leave `state` alone. Raises as `wait` does.
        """
        self.wait()
        self._writer = threading.Thread(target=self._write_or_note, args=(state, progress, recipe_yaml, copy.deepcopy(extras)))
        self._writer.start()

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk. Raises SaveFailed if the disk did not take it; the older ones are whole."""
        if self._writer:
            self._writer.join()
            self._writer = None
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure

    def _write_or_note(self, state: EngineState, progress: Progress, recipe_yaml: str, extras: Mapping[str, Any] | None) -> None:
        try:
            self._write(state, progress, recipe_yaml, extras)
        except (OSError, RuntimeError) as error:  # torch turns an error of the file into one of its own
            self._remove_unfinished()
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            last = next(
                (f"{path} is whole: the same command goes on from it" for path in reversed(self._paths())), "there is none before it"
            )
            self._failure = SaveFailed(f"the checkpoint of step {progress.step} could not be written to {self.folder} ({cause}); {last}")

    def _write(self, state: EngineState, progress: Progress, recipe_yaml: str, extras: Mapping[str, Any] | None) -> None:
        """Writes one checkpoint and then removes the oldest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        content = {
            "state_dict": state["model"],  # the key under which timm and most others look for weights
            "optimizer": state["optimizer"],
            "loss_scale": state["loss_scale"],
            "progress": vars(progress),
            "recipe": recipe_yaml,
        } | dict(extras or {})
        path = self.folder / f"step_{progress.step:09}.pt"
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        write_whole(_checksum_path(path), _sha256(new) + "\n")
        new.replace(path)
        _sync_folder(self.folder)  # before anything older goes: the new name must outlive a power cut
        for old in self._paths()[: -self.keep]:
            old.unlink()
            _checksum_path(old).unlink(missing_ok=True)

    def _remove_unfinished(self) -> None:
        """What a crash or a full disk has left; the run directory is this job's alone."""
        for path in self.folder.glob("step_*.new"):
            path.unlink(missing_ok=True)

    def newest(self) -> Found | None:
        """The newest undamaged checkpoint; None if there is none at all.

        Raises RecipeError if every checkpoint is damaged: going on from nothing would lose the run.
        """
        damaged: list[str] = []
        for path in reversed(self._paths()):
            if _checksum_path(path).exists() and _checksum_path(path).read_text().strip() == _sha256(path):
                content = torch.load(path, map_location="cpu", weights_only=True)
                state = {"model": content["state_dict"], "optimizer": content["optimizer"], "loss_scale": content["loss_scale"]}
                extras = {name: value for name, value in content.items() if name not in OWN}
                return Found(state, Progress(**content["progress"]), extras, damaged)
            damaged.append(f"{path} is damaged (its checksum differs): passed over")
        if damaged:
            raise RecipeError("; ".join(damaged) + ". No good checkpoint is left: choose another run_dir to start anew")
        return None

    def _paths(self) -> list[Path]:
        found = (path for path in self.folder.glob("step_*.pt") if re.fullmatch(r"step_\d{9,}\.pt", path.name))
        return sorted(found, key=lambda path: int(path.stem.removeprefix("step_")))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
