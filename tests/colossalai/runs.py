"""Training runs under engine=colossalai inside the worker pools."""

from pathlib import Path
from typing import Any

from lab.ranks import run_on_ranks
from tests.colossalai.streams import streams_on_cpu
from tests.distributed.runs import Outcome, run_here


def run_with_streams(changes: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """One rank's part of a run; importable by the workers."""
    with streams_on_cpu():
        return run_here(changes, run_dir)


def train_sharded_on(world_size: int, run_dir: Path, **changes: Any) -> Outcome:
    """As `train_on`, for the ZeRO stages of ColossalAI."""
    run_on_ranks(world_size, run_with_streams, changes, str(run_dir))
    return Outcome(run_dir)
