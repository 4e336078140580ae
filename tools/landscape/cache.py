"""Measurements are cached as they finish, so that a command that was stopped continues where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from lbtrain.analysis import Objective
from lbtrain.runs.files import read_object, write_whole

from .runs import DistContext

MEANING = 2
"""Raised where a measurement comes to mean something else: what was cached before is then measured anew."""


def cached(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    measure: Callable[[], dict[str, Any]],
    context: DistContext,
) -> dict[str, Any]:
    """folder/NAME.json if it holds a measurement with these settings; else measures, and writes it there.
    Collective, as `measure` is.

    Rank 0 looks for all: another might see the file earlier or later, or not at all on its host, and measure
    alone.
    """
    path, settings = folder / f"{name}.json", {**settings, "meaning": MEANING}
    if found := context.from_rank_0(lambda: _read(path, settings)):
        return found
    result = measure()
    if context.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"settings": settings, "result": result}, indent=1) + "\n")
    return result


def _read(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """None as well where the file is damaged: it is measured anew then."""
    try:
        found = read_object(path, {"settings": dict, "result": dict})
    except (OSError, ValueError):
        return None
    return found["result"] if found["settings"] == settings else None


class Watched:
    """An objective whose every gradient and product moves a bar."""

    def __init__(self, objective: Objective, tick: Callable[[], None]):
        self._objective, self._tick = objective, tick
        self.size, self.device, self.point = objective.size, objective.device, objective.point

    def value(self, shift: Tensor | None = None) -> float:
        return self._objective.value(shift)

    def gradient(self, shift: Tensor | None = None) -> tuple[float, Tensor]:
        self._tick()
        return self._objective.gradient(shift)

    def hessian_vector(self, vector: Tensor) -> Tensor:
        self._tick()
        return self._objective.hessian_vector(vector)
