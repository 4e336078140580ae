"""Checkpoints: one file with full named tensors, readable by any engine, any world size, and timm's `checkpoint_path=`.

A file is written under another name, flushed to the disk and renamed, so a crash leaves the old ones whole; a checksum beside it tells a
damaged one, and then the one before it is used. Files hold tensors, numbers and text only and are read with `weights_only=True`.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lbtrain.engines.protocol import EngineState
from lbtrain.errors import RecipeError
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

    def save(self, state: EngineState, progress: Progress, recipe_yaml: str, extras: Mapping[str, Any] | None = None) -> Path:
        """Writes one checkpoint, with `extras` (tensors, numbers, text by name) beside the rest, and then removes the oldest.

        Raises OSError if the disk does not take it; the older ones stay.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
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
        for old in self._paths()[: -self.keep]:
            old.unlink()
            _checksum_path(old).unlink(missing_ok=True)
        return path

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


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
