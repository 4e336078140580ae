"""The hub of the guards: what it finds to be the cause, and who is told of it, also where a guard comes after
it.
"""

import os
import socket
import time
from collections.abc import Iterator

import pytest

from lbtrain.faults.guard import Duty
from lbtrain.faults.guard.hub import Hub
from lbtrain.faults.guard.line import Line, listening, selectable

SECONDS = 20
"""For anything that is awaited: much more than it takes."""


@pytest.fixture
def hub(tmp_path) -> Iterator[Hub]:
    duty = Duty(
        0, 2, os.getpid(), "127.0.0.1", f"test {os.getpid()}", 30.0, str(tmp_path), time.monotonic(), -1, -1
    )
    door = listening(duty)
    assert door is not None
    hub = Hub(duty, door)
    hub.start()
    yield hub
    hub.join(SECONDS)
    assert not hub.is_alive()


def reported(hub: Hub, rank: int, **message: object) -> Line:
    """A guard's first words."""
    line = Line(socket.create_connection(("127.0.0.1", hub.listener.getsockname()[1])))
    line.send(token=hub.duty.token, rank=rank, host="node01", step=0, doing="start-up", **message)
    return line


def answers(line: Line, count: int) -> list | None:
    """The first `count` messages, in however many pieces they come; None for a line closed without one. Beats
    are answered.
    """
    heard: list = []
    while len(heard) < count:
        assert selectable([line], SECONDS), f"nothing for {SECONDS} s after {heard}"
        messages = line.messages()
        if messages is None:
            return heard or None
        line.send(step=0, doing="start-up")
        heard += [message for message in messages if "step" not in message]
    return heard


def test_a_guard_that_starts_late_hears_the_verdict_and_the_next_start_of_the_job_does_not(hub, capsys):
    reported(hub, 0, age=1.0, ended="its process is gone")
    deadline = time.monotonic() + SECONDS
    while not hub.causes and time.monotonic() < deadline:
        time.sleep(0.02)
    assert hub.causes
    assert answers(reported(hub, 1, age=0.0), 1) is None
    assert answers(reported(hub, 1, age=1000.0), 2) == [
        {"welcome": hub.duty.token},
        {"code": 4, "own": False},
    ]
    hub.join(SECONDS)
    assert "rank 0 on node01 lost after step 0 (start-up): its process is gone" in capsys.readouterr().err


def test_a_rank_that_left_by_itself_is_the_cause_whoever_was_heard_first(hub, capsys):
    """Its peer's exchange breaks when it goes, and the peer's guard may be the quicker one to say so."""
    peer = reported(hub, 0, age=1.0, why="RuntimeError: Connection closed by peer")
    gone = reported(hub, 1, age=1.0, left=75, why="stopped by a signal")
    for line, own in ((peer, False), (gone, True)):
        assert answers(line, 2) == [{"welcome": hub.duty.token}, {"code": 75, "own": own}]
        line.socket.close()
    hub.join(SECONDS)
    assert "rank 1 on node01 lost after step 0 (start-up): stopped by a signal" in capsys.readouterr().err
