"""Experiment trackers beside TensorBoard, through accelerate's (`log.trackers=[wandb,trackio,mlflow]`)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def start_trackers(names: Sequence[str], run_dir: Path, config: Mapping[str, str]) -> Iterator[Any]:
    """accelerate's trackers but TensorBoard, which Records writes itself, started with the recipe's values.
    The run is called as its directory.
    """
    for name in names:
        if name == "tensorboard":
            continue
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        folder = {"logging_dir": str(run_dir)} if kind.requires_logging_directory else {}
        tracker = kind(run_dir.name, **folder)
        tracker.main_process_only = False  # one process makes it, and has no state of accelerate's to ask
        tracker.start()
        tracker.store_init_configuration(dict(config))
        yield tracker
