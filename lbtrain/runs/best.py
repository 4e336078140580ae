"""The best checkpoint of a run, kept beside the newest as checkpoints/best.pt (`checkpoint.best`)."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from lbtrain.errors import RecipeError
from lbtrain.runs.checkpoint_files import checksum_path, matching_checksum
from lbtrain.runs.files import read_object, read_whole, saving, write_whole


class BestCheckpoint:
    """Knows the best value so far, of this run and of those before a restart; `metric` "" keeps nothing."""

    def __init__(self, folder: Path, metric: str):
        self.metric, self._folder = metric, folder
        self._higher_is_better = not metric.endswith(("_error", "loss"))
        self.value = self._read() if metric else None
        """The best so far; None before the first evaluation."""

    def _read(self) -> float | None:
        """What was the best before a restart, if there was one whose best.pt is still whole: a damaged one
        gives way to the next evaluation, even to one that is as good and no better.
        """
        path = self._folder / "best.json"
        try:
            found = read_object(path, {"metric": str, "value": (int, float), "sha256": str})
            if found.pop("sha256") != _digest(found):
                raise ValueError("its checksum differs")
            if not math.isfinite(found["value"]):
                raise ValueError(f"value={found['value']} is not finite")
            ours = found["metric"] == self.metric and matching_checksum(self._folder / "best.pt")
            return float(found["value"]) if ours else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"{path} cannot be read ({error}), so that a worse checkpoint could replace best.pt: remove "
                "both, or restore the file."
            ) from error

    def improved(self, metrics: Mapping[str, float]) -> bool:
        """Whether this evaluation is the best so far; remembers it. The same on every rank."""
        value = metrics.get(self.metric)
        if value is None or not math.isfinite(value):
            return False
        better = self.value is None or (value > self.value if self._higher_is_better else value < self.value)
        self.value = float(value) if better else self.value
        return better

    def keep(self, checkpoint: Path, step: int, value: float) -> None:
        """Makes best.pt the same file as `checkpoint`, which may be removed later; a copy where the file
        system has no hard links. `value`: of its evaluation; a later one may have been better by now.

        After a kill anywhere in here best.pt is the old or the new one, right by its checksum: while it is
        replaced, the checksums of both stand there.
        """
        new, path = self._folder / "best.new", self._folder / "best.pt"
        checksum = read_whole(checksum_path(checkpoint))
        write_whole(checksum_path(path), f"{matching_checksum(path)}\n".encode() + checksum)
        with saving(path):
            new.unlink(missing_ok=True)
            try:
                os.link(checkpoint, new)
            except OSError:
                shutil.copyfile(checkpoint, new)
            new.replace(path)
            new.unlink(missing_ok=True)  # which stays where both were one file already
        write_whole(checksum_path(path), checksum)
        found = {"metric": self.metric, "value": value, "step": step}
        write_whole(self._folder / "best.json", json.dumps(found | {"sha256": _digest(found)}) + "\n")


def _digest(found: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
