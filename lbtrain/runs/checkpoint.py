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
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lbtrain.engines.protocol import EngineState
from lbtrain.errors import RecipeError, SaveFailed
from lbtrain.output import say
from lbtrain.runs.best import BestCheckpoint
from lbtrain.runs.checkpoint_files import (
    checkpoint_paths,
    checksum_path,
    matching_checksum,
    newest_whole,
    sha256,
)
from lbtrain.runs.files import write_whole
from lbtrain.runs.loading import (
    BEST,
    FINGERPRINT,
    SCALE_STEPS,
    SECONDS,
    LoadedCheckpoint,
    read_checkpoint,
)
from lbtrain.runs.progress import Progress

_Write = tuple[int, Mapping[str, Any], float | None]
"""The step of a checkpoint, its content, and the value of its evaluation if it is the best of the run."""


class Checkpoints:
    """The checkpoints of one run, in `run_dir/checkpoints`; the `keep` newest stay, not counting damaged ones
    that were skipped.
    """

    def __init__(self, run_dir: Path, *, keep: int, best: str = ""):
        self.folder, self._rows = run_dir / "checkpoints", run_dir / "metrics.jsonl"
        self.best = BestCheckpoint(self.folder, best)
        self.keep = keep
        self.fingerprint: Mapping[str, str] = {}
        self.about: Mapping[str, Any] = {}
        """What somebody needs who has nothing but the weights (Task.about)."""
        self.started = time.time()
        """When the run would have started if nothing had interrupted it."""
        self._writer: threading.Thread | None = None
        self._failed = False
        self._unsaved_best: _Write | None = None
        self._skipped: set[Path] = set()

    def save(
        self,
        state: EngineState,
        progress: Progress,
        recipe_yaml: str,
        extras: Mapping[str, Any] | None = None,
        *,
        is_best: bool = False,
        wait: bool = False,
    ) -> None:
        """Starts to write a checkpoint, when the one before is written, with `extras` (tensors, numbers, text
        by name) beside the rest. The caller must leave `state` alone.

        A disk that does not take it is told of, and training goes on. The save after that returns when it is
        written, as one does that is to `wait`, and raises SaveFailed if it is not; the older ones are whole.
        A best one that was not taken is written then too, unless this one is better.
        """
        self.wait()
        best = self.best.value if is_best else None  # now: the next evaluation may come before the thread
        content = {
            "state_dict": state["model"],  # the key under which timm and most others look for weights
            "optimizer": state["optimizer"],
            "loss_scale": state["loss_scale"],
            SCALE_STEPS: state[SCALE_STEPS],
            "progress": dict(vars(progress)),
            "recipe": recipe_yaml,
            FINGERPRINT: dict(self.fingerprint),
            SECONDS: max(time.time() - self.started, 0.0),
            **copy.deepcopy(dict(extras or {})),
            **self.about,
        }
        if best is not None:
            content[BEST] = {self.best.metric: best}
        if wait or self._failed:
            if self._unsaved_best and best is None:
                self._write_or_explain(*self._unsaved_best)
            self._write_or_explain(progress.step, content, best)
            self._failed, self._unsaved_best = False, None
            return
        self._writer = threading.Thread(target=self._write_or_note, args=(progress.step, content, best))
        self._writer.start()

    def wait(self) -> None:
        """Returns when nothing is being written."""
        if self._writer:
            self._writer.join()
            self._writer = None

    def _write_or_note(self, step: int, content: Mapping[str, Any], best: float | None) -> None:
        """The thread: what it raised would end it alone."""
        try:
            self._write_or_explain(step, content, best)
        except SaveFailed as error:
            self._failed = True
            self._unsaved_best = (step, content, best) if best is not None else None
            say(f"{error}. Training goes on, and ends if the next save fails too.", error=True)

    def _write_or_explain(self, step: int, content: Mapping[str, Any], best: float | None) -> None:
        try:
            path = self._write(step, content)
            if best is not None:
                self.best.keep(path, step, best)
        except Exception as error:  # whatever it is: the run would lose its checkpoint without a word
            # of a disk that has become read-only; the next save or start removes it
            with contextlib.suppress(OSError):
                self._remove_unfinished()
            # torch turns an error of the file into one of its own.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            why = str(cause) or type(cause).__name__  # a MemoryError has no words
            good = self._not_skipped()
            last = (
                f"{good[-1]} is whole: the same command goes on from it"
                if good
                else "there is none before it"
            )
            raise SaveFailed(
                f"the checkpoint of step {step} could not be written to {self.folder} ({why}); {last}"
            ) from error

    def _write(self, step: int, content: Mapping[str, Any]) -> Path:
        """Writes one checkpoint and then removes the oldest, and damaged ones that it replaces."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        with contextlib.suppress(FileNotFoundError):
            _sync(self._rows)  # a run goes on behind the checkpoint: no row before it is written again
        path = self.folder / f"step_{step:09}.pt"
        new = path.with_suffix(".new")
        with new.open("xb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        write_whole(checksum_path(path), sha256(new) + "\n")
        new.replace(path)
        _sync(self.folder)  # before anything older goes: the new name must outlive a power cut
        self._skipped.discard(path)
        paths = self._paths()
        replaced = self._skipped & set(paths[: paths.index(path)])
        for old in [*self._not_skipped()[: -self.keep], *replaced]:
            old.unlink()
            checksum_path(old).unlink(missing_ok=True)
        return path

    def _remove_unfinished(self) -> None:
        """What a crash or a full disk has left; the run directory is this job's alone."""
        for path in self.folder.glob("step_*.new"):
            path.unlink(missing_ok=True)

    def newest(self) -> LoadedCheckpoint | None:
        """The newest undamaged checkpoint; None if there is none at all.

        Raises RecipeError if every checkpoint is damaged: going on from nothing would lose the run; and if
        the newest undamaged one does not hold what a checkpoint holds: somebody has changed it.
        """
        if not (found := newest_whole(self.folder)):
            return None
        self._skipped |= set(found.damaged)
        return read_checkpoint(found.path, found.skipped, found.checksum)

    def missed_best(self, loaded: LoadedCheckpoint) -> bool:
        """Whether a kill came between this checkpoint, the best of the run, and best.pt, which is then to
        be made from it. Remembers its value. The same on every rank.
        """
        return loaded.path.parent == self.folder and self.best.improved(loaded.best)

    def load(self, path: Path) -> LoadedCheckpoint:
        """One checkpoint of the folder. Raises RecipeError if it is damaged."""
        if checksum := matching_checksum(path):
            return read_checkpoint(path, [], checksum)
        raise RecipeError(
            f"{path} is damaged, or its checksum file is not beside it. Name another checkpoint."
        )

    def _not_skipped(self) -> list[Path]:
        return [path for path in self._paths() if path not in self._skipped]

    def _paths(self) -> list[Path]:
        return checkpoint_paths(self.folder)


def _sync(path: Path) -> None:
    """Returns when what was written to a file, or into a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
