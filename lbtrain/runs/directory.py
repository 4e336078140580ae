"""A run directory: everything about one run, in files that tools can read without lbtrain.

recipe.yaml, plan.json, fingerprint.json (what all ranks had in common), deepspeed.json (as handed to the
engine), metrics.jsonl, tensorboard/, checkpoints/, summary.json.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from lbtrain.engines.deepspeed_config import complete_config
from lbtrain.errors import RecipeError
from lbtrain.output import say
from lbtrain.plan.plan import Plan
from lbtrain.recipe import Recipe
from lbtrain.runs.files import check_kinds, open_to_append, read_object, read_whole, saving, write_whole
from lbtrain.runs.fingerprint import leaves
from lbtrain.runs.legs import changed_keys, changes_of_leg, recorded
from lbtrain.runs.provenance import commit, hardware, versions
from lbtrain.runs.rows import read_rows

WRITTEN = (
    "recipe.yaml", "plan.json", "fingerprint.json", "deepspeed.json", "metrics.jsonl", "summary.json",
    "summary.csv", "legs.json", "tensorboard", "checkpoints", "evaluation", "export", "pictures", "lock",
    "guards.json", "faults.log", "diverged.json",
)  # fmt: skip
"""All that a run writes into its directory."""

_PATIENCE = 100.0
"""Seconds to wait for the lock: more than the 90 for which an NFS keeps the lock of a host that was lost."""
_SECONDS_TO_BE_TOLD = 10.0

_SUMMARY: dict[str, Any] = {
    **dict.fromkeys(("recipe", "commit", "hardware", "engine"), str),
    **dict.fromkeys(("step", "examples", "world_size"), int),
    "primary_metric": {"name": str},
    "versions": dict,
    "seconds": float,
}


def _locked(lock: TextIO) -> bool:
    """Whether the lock could be had, or there are none on this file system, which is said. A lock of this
    kind holds between the hosts of an NFS too.
    """
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        say(
            f"note: this file system has no locks ({error.strerror}), so nothing keeps a second job out of "
            "this run directory: start no other one there, or mount it with locks"
        )
    return True


def _owner(lock: TextIO) -> str:
    lock.seek(0)
    return "".join(filter(str.isprintable, lock.read(200))) or "another process"


@dataclass(frozen=True)
class RunDirectory:
    path: Path

    def open_for(self, recipe: Recipe) -> None:
        """Makes the folder. Raises RecipeError if that fails, or if it holds a run that this recipe would not
        continue.
        """
        try:
            self._check_same_run(recipe)  # a folder above may be closed to this user
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecipeError(
                f"run_dir={self.path} cannot be used: {error.strerror}. Choose another run_dir."
            ) from error

    def _check_same_run(self, recipe: Recipe) -> None:
        self.check_no_link(*WRITTEN)
        recorded(self.path)  # now, and not first where the result is graded
        if (self.path / "recipe.yaml").exists() and recipe.resume == "never":
            raise RecipeError(
                f"run_dir={self.path} holds a run already, and resume=never. Choose another run_dir."
            )
        if recipe.resume == "new_leg" and self.holds_run():
            changes_of_leg(self.recipe(), recipe)
        elif changed := self.changes(recipe):
            raise RecipeError(
                f"run_dir={self.path} holds a run of another recipe ({'; '.join(changed)}). Choose another "
                "run_dir, undo the change, or write resume=new_leg to go on with another duration, "
                "batch_size or schedule."
            )

    def check_no_link(self, *names: str) -> None:
        """Raises RecipeError where one of the files or folders that are to be written is a link."""
        for name in names:
            if (self.path / name).is_symlink():
                raise RecipeError(
                    f"{self.path / name} is a link, and a run writes into its own directory only: remove the "
                    "link, or choose another place"
                )

    def changes(self, recipe: Recipe) -> list[str]:
        """What makes `recipe` another run than the one in this folder; nothing where it would continue that
        run, or where there is none. Raises RecipeError for a recipe.yaml that this version does not read.
        """
        return changed_keys(self.recipe(), recipe) if self.holds_run() else []

    def holds_run(self) -> bool:
        return (self.path / "recipe.yaml").exists() or any(self.path.glob("checkpoints/step_*.pt"))

    def recipe(self) -> Recipe:
        """Of the run in this folder. Raises RecipeError where its file is missing, damaged, or of a version
        of lbtrain that had other keys.
        """
        path = self.path / "recipe.yaml"
        try:
            return Recipe.from_yaml(read_whole(path).decode())
        except (OSError, ValueError) as error:
            reason = "".join(filter(str.isprintable, str(error)))
            raise RecipeError(
                f"{path} cannot be read ({reason}), so that nothing shows which run this is: put the file "
                "back (every checkpoint holds a copy, under `recipe`), use the version of lbtrain that wrote "
                "it (commit in fingerprint.json), or choose another run_dir"
            ) from error

    def lock(self, *, patience: float = _PATIENCE) -> TextIO:
        """Locks the directory for this process, for as long as the returned file is open; the system frees it
        when the process dies.

        Names the owner when it has waited for some seconds. Raises RecipeError, with the owner, if another
        process still holds it after `patience` seconds, or if nothing can be written.
        """
        path, started, told = self.path / "lock", time.monotonic(), False
        try:
            lock = os.fdopen(open_to_append(path), "a+", errors="replace")
        except OSError as error:
            why = error.strerror or error
            raise RecipeError(
                f"run_dir={self.path} cannot be written to: {why}. Choose another run_dir."
            ) from error
        while not _locked(lock):
            waited = time.monotonic() - started
            in_use = f"run_dir={self.path} is in use by {_owner(lock)}."
            if waited > patience:
                raise RecipeError(f"{in_use} Wait for it, end it, or choose another run_dir.")
            if waited > _SECONDS_TO_BE_TOLD and not told:
                told = True
                say(f"{in_use} Waiting for it, {patience:.0f} s at most.")
            time.sleep(0.1)
        with saving(path):
            lock.truncate(0)
            lock.write(
                f"process {os.getpid()} on {socket.gethostname()} "
                f"since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
            )
            lock.flush()
        return lock

    def set_aside_divergence(self) -> None:
        """The run trains again, so it has not ended with what diverged.json says of an earlier start: that is
        kept by its step.
        """
        path, step = self.path / "diverged.json", "unknown"
        with contextlib.suppress(OSError, ValueError):
            step = str(read_object(path, {"step": int})["step"])
        with saving(path), contextlib.suppress(FileNotFoundError):
            path.replace(self.path / f"diverged_step_{step}.json")

    def write_config(self, plan: Plan, fingerprint: Mapping[str, str]) -> None:
        """Writes recipe, plan, fingerprint and the engine's own config, before the first step."""
        write_whole(self.path / "recipe.yaml", plan.recipe.to_yaml())
        write_whole(self.path / "plan.json", plan.to_json() + "\n")
        write_whole(self.path / "fingerprint.json", json.dumps(fingerprint, indent=1) + "\n")
        if plan.engine == "deepspeed":
            config = complete_config(plan, plan.recipe.deepspeed.config)
            write_whole(self.path / "deepspeed.json", json.dumps(config, indent=1) + "\n")

    def write_summary(self, result: dict[str, Any], *, write: bool) -> dict[str, Any]:
        """Adds where the numbers come from, writes summary.json if told to, and returns both."""
        summary = result | {"commit": commit(), "hardware": hardware(), "versions": versions()}
        if write:
            write_whole(self.path / "summary.json", json.dumps(summary, indent=1) + "\n")
        return summary

    def read(self, name: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object in a file of the run, with values of these types. Raises RecipeError where it
        cannot be read, and for a plan that is not the one of the fingerprint.
        """
        path = self.path / name
        try:
            found = read_object(path, kinds)
            if name == "plan.json":
                self._check_plan(found)
            return found
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"{path} cannot be read ({error}). Restore the file, or remove {self.path} and train again."
            ) from error

    def _check_plan(self, plan: dict[str, Any]) -> None:
        """Raises ValueError where the fingerprint has another plan; an older run may have none."""
        known, found = {}, dict(leaves("plan", plan))
        with contextlib.suppress(OSError, ValueError):
            known = read_object(self.path / "fingerprint.json", {})
            known = {key: text for key, text in known.items() if key.startswith("plan.")}
        for key in sorted(known.keys() | found.keys() if known else ()):
            if found.get(key) != known.get(key):
                raise ValueError(f"{key} is {found.get(key)}, and {known.get(key)} in fingerprint.json")

    def replaced_images(self) -> int:
        """How many broken images were replaced, over the whole run with its restarts: the rows of
        metrics.jsonl count each once.
        """
        return sum(row.get("replaced_images", 0) for row in read_rows(self.path / "metrics.jsonl")[0])

    def summary(self) -> dict[str, Any] | None:
        """Of a finished run; None if it has not finished, or if the file is damaged: then the run is scored
        and the file written again.
        """
        with contextlib.suppress(OSError, ValueError):
            found = read_object(self.path / "summary.json", _SUMMARY)
            name = found["primary_metric"]["name"]
            if name in found or self.recipe().data.validation_root != "none":  # which is not scored
                check_kinds(found, {name: (int, float)})
            return found
        return None
