"""Experiment trackers beside TensorBoard, through accelerate's (`log.trackers=[wandb,trackio,mlflow]`)."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lbtrain.errors import RecipeError, reason_of
from lbtrain.output import say

PROJECT = "lbtrain"
"""What the runs of all recipes are compared in, unless a tracker's own environment variable names another."""


class Trackers:
    """accelerate's trackers but TensorBoard, which Records writes itself, started with the recipe's values.
    Raises RecipeError for one that cannot be started; one that fails later is left out from there on.
    """

    def __init__(self, names: Sequence[str], run_dir: Path, config: Mapping[str, str]):
        self._started: dict[str, Any] = {}
        for name in names:
            if name != "tensorboard":
                self._started[name] = _start(name, run_dir, config)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, tracker in list(self._started.items()):
            try:
                tracker.log(dict(values), step=step)
            except Exception as error:  # whatever a service or the way to it raises: the run goes on
                del self._started[name]
                text = f"log.trackers={name} gets nothing from step {step} on: {_reason(error)}"
                say(text, error=True)

    def finish(self) -> None:
        for name, tracker in self._started.items():
            try:
                tracker.finish()
            except Exception as error:  # the run has its summary still to write
                say(f"log.trackers={name} was not closed: {_reason(error)}", error=True)


def _start(name: str, run_dir: Path, config: Mapping[str, str]) -> Any:
    from accelerate import tracking

    # accelerate's own logger wants its state, which would choose device and threads of this process anew
    cast(Any, tracking).logger = logging.getLogger(tracking.__name__)
    project, options = _place(name, run_dir)
    tracker: Any = tracking.LOGGER_TYPE_TO_CLASS[name](project, **options)
    tracker.main_process_only = False  # one process makes it, and has no state of accelerate's to ask
    try:
        tracker.start()
        tracker.store_init_configuration(dict(config))
    except Exception as error:  # no account, no network, no permission: each service has its own
        raise RecipeError(f"log.trackers={name} cannot be started: {_reason(error)}") from error
    return tracker


def _place(name: str, run_dir: Path) -> tuple[str, dict[str, str]]:
    """The project of a tracker, and what tells it the name of the run, which is that of its directory."""
    run = run_dir.resolve().name
    if name == "wandb":
        return os.environ.get("WANDB_PROJECT", PROJECT), {"name": run, "dir": str(run_dir)}
    if name == "mlflow":  # accelerate reads MLFLOW_EXPERIMENT_NAME itself
        return PROJECT, {"run_name": run}
    if name == "trackio":
        return PROJECT, {"name": run}
    return os.environ.get("COMET_PROJECT_NAME", PROJECT), {}


def _reason(error: Exception) -> str:
    return f"{reason_of(error).rstrip('.')}."
