"""A guard from its start to its end; that of rank 0 has the hub beside it."""

import json
import signal

from .duty import Duty
from .hub import Hub
from .line import listening
from .rank_guard import Guard


def main(argument: str) -> None:
    # The rank decides what a signal means; its guard ends when the rank does.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    duty = Duty(**json.loads(argument))
    if duty.rank == 0 and (listener := listening(duty)):
        Hub(duty, listener).start()
    Guard(duty).watch()
