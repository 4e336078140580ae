"""A run that goes on with other settings (a new leg), or from a checkpoint of another run: what may differ,
and where it is recorded.
"""

import json
import time
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from lbtrain.errors import RecipeError
from lbtrain.recipe import MAY_CHANGE_ON_RESUME, Recipe, as_text, differences, inactive_keys, value_of
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.files import check_kinds, read_whole, write_whole
from lbtrain.runs.loading import LoadedCheckpoint
from lbtrain.runs.provenance import commit

FILE = "legs.json"
MODES = ("auto", "never", "new_leg")
"""Values of `resume`; any other is the path of a run or of a checkpoint."""
_MAY_CHANGE = ("duration", "batch_size")
_MAY_CHANGE_GROUPS = ("schedule.",)


def changed_keys(before: Recipe, now: Recipe, may: Set[str] = MAY_CHANGE_ON_RESUME) -> list[str]:
    """What makes `now` another experiment than `before`; the keys in `may` do not, nor do those that did
    nothing and were left out since, as a later version asks for.
    """
    idle, default = inactive_keys(before), Recipe()
    return [
        f"{key} was {as_text(old)}, is {as_text(new)}"
        for key, old, new in differences(before, now)
        if key not in may and not (key in idle and new == value_of(default, key))
    ]


def changes_of_leg(before: Recipe, now: Recipe) -> list[str]:
    """The same, where a new leg may change it. Raises RecipeError with the keys that cannot change in a run,
    and where the batch of this run cannot.
    """
    changed = changed_keys(before, now)
    fixed = [text for text in changed if not _may_change(text.partition(" ")[0])]
    if fixed:
        raise RecipeError(
            f"{'; '.join(fixed)}: a run cannot continue with this change. A new leg may change duration, "
            "batch_size and schedule.*. Start another run from the weights of this one with "
            "model.weights=RUN_DIR."
        )
    if now.batch_size != before.batch_size:
        _check_batch_may_change(now)
    return changed


def _may_change(key: str) -> bool:
    return key in _MAY_CHANGE or key.startswith(_MAY_CHANGE_GROUPS)


def _check_batch_may_change(recipe: Recipe) -> None:
    reasons = {
        f"model.library={recipe.model.library} pads the images of a step to one size": (
            recipe.model.library != "timm"
        ),
        f"absa.max_batch_size={recipe.absa.max_batch_size} chooses the batch itself": bool(
            recipe.absa.max_batch_size
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise RecipeError(
                f"batch_size={recipe.batch_size} cannot change in this run, because {reason}. Keep it, or "
                "start another run with model.weights=RUN_DIR."
            )


def checkpoint_elsewhere(recipe: Recipe) -> LoadedCheckpoint | None:
    """The checkpoint that `resume=PATH` names: a file, or the newest of a run. None for the other values.
    Raises RecipeError for a path without one, and for one of a run that `recipe` cannot continue.
    """
    if recipe.resume in MODES:
        return None
    path = Path(recipe.resume).expanduser()
    folder = path.parent.parent if path.is_file() else path
    loaded = (
        Checkpoints(folder, keep=1).load(path) if path.is_file() else Checkpoints(folder, keep=1).newest()
    )
    if not loaded:
        raise _names_nothing(recipe)
    changes_of_leg(loaded.recipe, recipe)
    return loaded


def check_start(recipe: Recipe, run_dir: Path) -> None:
    """The run in `run_dir` goes on from its own newest checkpoint: raises RecipeError for a `resume` that
    names anything but that, or what the run started from (which may be gone).
    """
    path, own = Path(recipe.resume).expanduser().resolve(), run_dir.resolve()
    if recipe.resume in MODES or path == own:
        return
    starts = [Path(leg["checkpoint"]).resolve() for leg in recorded(run_dir)]
    if path in starts or path in [start.parent.parent for start in starts]:
        return
    if path.is_file() and path.is_relative_to(own):
        raise RecipeError(
            f"resume={recipe.resume} is of this run itself, which goes on from its newest checkpoint: choose "
            "another run_dir to go on from this one."
        )
    if not path.exists():
        raise _names_nothing(recipe)
    raise RecipeError(
        f"run_dir={run_dir} holds a run that did not start from resume={recipe.resume}, and goes on from its "
        "own newest checkpoint: choose another run_dir, or leave resume out."
    )


def _names_nothing(recipe: Recipe) -> RecipeError:
    return RecipeError(
        f"resume={recipe.resume} is neither {', '.join(MODES)}, nor a run directory with checkpoints, nor a "
        "checkpoint file."
    )


def recorded(run_dir: Path) -> list[dict[str, Any]]:
    """The legs of a run after its first. Raises RecipeError where their file is damaged."""
    path = run_dir / FILE
    try:
        legs = json.loads(read_whole(path))
        for leg in legs:
            check_kinds(leg, {"step": int, "checkpoint": str})
        return list(legs)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (AttributeError, OSError, RecursionError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{path} cannot be read ({error}), and says from which checkpoints this run went on: restore the "
            "file, or remove it."
        ) from error


def record(run_dir: Path, loaded: LoadedCheckpoint, changes: Sequence[str]) -> None:
    """Adds a leg to legs.json, unless it changes nothing: where it starts, from which checkpoint, and what it
    changed. It takes the place of one from the same checkpoint, of which nothing is left.
    """
    before = recorded(run_dir)
    kept = before[:-1] if before and before[-1]["checkpoint"] == str(loaded.path) else before
    if kept == before and not changes:
        return
    leg = {
        "step": loaded.progress.step,
        "examples": loaded.progress.examples,
        "checkpoint": str(loaded.path),
        "changed": list(changes),
        "commit": commit(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    legs = [*kept, leg] if changes else kept
    write_whole(run_dir / FILE, json.dumps(legs, indent=1) + "\n")


def reasons(legs: Iterable[dict[str, Any]]) -> list[str]:
    """Why the result of a run with these legs is not that of its recipe alone."""
    return [f"it continued from step {leg['step']} of {leg['checkpoint']} as a new leg" for leg in legs]
