"""The files of checkpoints: in which order they were written, and whether they are as they were written."""

import contextlib
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from lbtrain.errors import RecipeError
from lbtrain.runs.files import open_to_read, read_whole


class WholeCheckpoint(NamedTuple):
    """A checkpoint that is as it was written, its SHA-256, and the newer ones that are damaged."""

    path: Path
    checksum: str
    damaged: list[Path]

    @property
    def skipped(self) -> list[str]:
        """A line for each damaged one."""
        return list(map(_skipped, self.damaged))


def newest_whole(folder: Path) -> WholeCheckpoint | None:
    """The newest undamaged checkpoint of a folder; None if it has no checkpoint at all. Raises RecipeError if
    every one is damaged.
    """
    damaged: list[Path] = []
    for path in reversed(checkpoint_paths(folder)):
        if checksum := matching_checksum(path):
            return WholeCheckpoint(path, checksum, damaged)
        damaged.append(path)
    if damaged:
        raise RecipeError(
            "; ".join(map(_skipped, damaged))
            + ". No good checkpoint is left: choose another run directory (run_dir, to start anew)"
        )
    return None


def _skipped(path: Path) -> str:
    return f"{path} is damaged (its checksum differs or is not beside it): skipped"


def checkpoint_paths(folder: Path) -> list[Path]:
    """Checkpoints in a folder by step, the newest last."""
    found = (path for path in folder.glob("step_*.pt") if re.fullmatch(r"step_\d{9,}\.pt", path.name))
    return sorted(found, key=lambda path: int(path.stem.removeprefix("step_")))


def checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def matching_checksum(path: Path) -> str:
    """Of a checkpoint that is as it was written; empty for one that is damaged, or whose checksum is. More
    than one checksum stands beside best.pt while it is replaced.
    """
    with contextlib.suppress(OSError, ValueError):
        known, checksum = read_whole(checksum_path(path), most=200).decode().split(), sha256(path)
        return checksum if checksum in known else ""
    return ""


def check_whole(path: Path) -> None:
    """Raises RecipeError for a file that is another one than the checksum beside it says. One without such a
    file may be anybody's, and passes.
    """
    if checksum_path(path).exists() and not matching_checksum(path):
        raise RecipeError(
            f"{path} is damaged: its checksum is not the one in {checksum_path(path)}. Name another "
            "checkpoint."
        )


def sha256(path: Path) -> str:
    with open_to_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
