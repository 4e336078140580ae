"""Which rank the others wait for.

A rank's own time is that from the start of a micro-step until its loss: loading and forward pass. The
backward pass is left out, since the exchange of gradients in it makes all ranks equally late. So the wait is
a lower bound, and exact for a rank whose data come late. Synchronised batch norm and ZeRO-3 exchange in the
forward pass too, where a slow rank delays the others' own time.
"""

import socket
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lbtrain.monitors.clock import Clock, clock_for


@dataclass(frozen=True)
class Straggler:
    """The slowest rank of a number of steps, and the mean over all ranks of the seconds by which it was later
    than they.
    """

    rank: int
    host: str
    wait: float


class OwnTime:
    """Sums this rank's own time. Nothing waits for the device before `for_rank`."""

    def __init__(self, device: torch.device, clock: Clock | None = None):
        self._device, self._clock = device, clock or clock_for(device)
        self._hosts: list[str] = []
        self.restart()

    def restart(self) -> None:
        self._stamps: list[tuple[Any, Any]] = []
        self._started: Any = None

    def start(self) -> None:
        """At the start of a micro-step, before its data."""
        self._started = self._clock.stamp()

    def stop(self) -> None:
        """When its loss is computed."""
        self._stamps.append((self._started, self._clock.stamp()))

    def for_rank(self, rank: int, world_size: int) -> Tensor:
        """Seconds so far at the place of this rank and zeros elsewhere [world_size]; waits for the device."""
        self._clock.settle()
        seconds = torch.zeros(world_size, device=self._device)
        seconds[rank] = sum(self._clock.seconds(*pair) for pair in self._stamps)
        return seconds

    def slowest(self, seconds: list[float]) -> Straggler | None:
        """From the own times of all ranks; None for a rank alone. Collective at its first call."""
        if len(seconds) == 1:
            return None
        if not self._hosts:
            self._hosts = [""] * len(seconds)
            dist.all_gather_object(self._hosts, socket.gethostname())
        most = max(seconds)
        rank = seconds.index(most)
        return Straggler(rank, self._hosts[rank], most - sum(seconds) / len(seconds))
