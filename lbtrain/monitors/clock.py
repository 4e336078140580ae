"""When the device has come to a point of the program, without the program waiting for it."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Stamps are taken in passing, and read later."""

    def stamp(self) -> Any: ...

    def settle(self) -> None:
        """Wait until every stamp can be read."""

    def seconds(self, before: Any, after: Any) -> float: ...


class HostClock:
    """For devices that compute while the program waits."""

    def stamp(self) -> float:
        return time.perf_counter()

    def settle(self) -> None: ...

    def seconds(self, before: float, after: float) -> float:
        return after - before


class StreamClock:
    """Events on the device's stream: the program only leaves a mark, and the device says later when it passed
    it.

    `device` is torch.cuda, or a module with its `Event` and `synchronize`.
    """

    def __init__(self, device: Any):
        self._device = device

    def stamp(self) -> Any:
        event = self._device.Event(enable_timing=True)
        event.record()
        return event

    def settle(self) -> None:
        self._device.synchronize()

    def seconds(self, before: Any, after: Any) -> float:
        return float(before.elapsed_time(after)) / 1000  # events count in milliseconds


def clock_for(device: torch.device) -> Clock:
    return StreamClock(torch.cuda) if device.type == "cuda" else HostClock()
