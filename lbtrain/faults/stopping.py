"""Stopping on a signal, at the same step on every rank.

A launcher or a scheduler may signal one rank, some or all. Each rank sends its flag with every step and reads
the answer one step later, so nobody waits for the exchange; all ranks read the same answers and so stop after
the same step.
"""

import os
import signal
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from lbtrain.faults.watchdog import catch_signals, let_go_of_terminal

SECONDS_OF_ONE_REQUEST = 5
"""Launchers pass on a Ctrl-C that the terminal has sent to every process already: what comes that soon is the
same request. SIGXCPU comes again every second until the hard limit.
"""


class StopRequest:
    """Collective: every rank calls `agreed()` once a step. A second signal some seconds later ends the
    process at once.
    """

    def __init__(self) -> None:
        self._signal, self._since = 0, 0.0
        self._pending: tuple[dist.Work | None, torch.Tensor] | None = None
        self.bad_step = 0
        # Flags travel between hosts' memories, so that asking never waits for a GPU.
        self._group: Any = dist.new_group(backend="gloo") if dist.get_backend() != "gloo" else None
        self._previous = catch_signals(self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        let_go_of_terminal(number)
        if not self._signal:
            self._signal, self._since = number, time.monotonic()
        elif number != signal.SIGXCPU and time.monotonic() - self._since > SECONDS_OF_ONE_REQUEST:
            os._exit(128 + number)

    def agreed(self, bad_step: int = 0) -> bool:
        """True on every rank, at the same step, once any rank has been signalled.

        A `bad_step` that any rank names (0: none) travels along; all find it in the attribute of that name,
        one step later.
        """
        if dist.get_world_size() == 1:
            self.bad_step = bad_step
            return bool(self._signal)
        answer = False
        if self._pending:
            work, flags = self._pending
            if work:
                work.wait()
            signalled, self.bad_step = flags.tolist()
            answer = bool(signalled)
        flags = torch.tensor([int(self._signal > 0), bad_step])
        self._pending = (
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group, async_op=True),
            flags,
        )
        return answer

    def meet(self) -> None:
        """Returns when every rank has come here, on GPUs too, where an exchange of the engine may return
        before it is done. Collective.
        """
        dist.barrier(group=self._group)

    def close(self) -> None:
        """Gives the signals back to whom they belonged; waits for the last exchange."""
        if self._pending and self._pending[0]:
            self._pending[0].wait()
        self._pending = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)
