"""The hub of the guards: who is told of a loss, also where a guard comes after it."""

import os
import socket
import time

from lbtrain.guard import Duty
from lbtrain.guard.hub import Hub
from lbtrain.guard.line import Line, listening, selectable


def test_a_guard_that_starts_late_hears_the_verdict_and_the_next_start_of_the_job_does_not(tmp_path, capsys):
    duty = Duty(0, 2, os.getpid(), "127.0.0.1", f"test {os.getpid()}", 5.0, str(tmp_path), time.monotonic(), -1, -1)
    door = listening(duty)
    assert door is not None
    hub = Hub(duty, door)
    hub.start()

    def reported(rank: int, **message: object) -> Line:
        line = Line(socket.create_connection(("127.0.0.1", door.getsockname()[1])))
        line.send(token=duty.token, rank=rank, host="node01", step=0, doing="start-up", **message)
        return line

    def answers(line: Line, count: int) -> list | None:
        """The first `count` messages, in however many pieces they arrive; None for a line closed without a word."""
        heard: list = []
        while len(heard) < count:
            assert selectable([line], 3), f"nothing for 3 s after {heard}"
            messages = line.messages()
            if messages is None:
                return heard or None
            heard += messages
        return heard

    reported(0, age=1.0, ended="its process is gone")
    deadline = time.monotonic() + 3
    while not hub.causes and time.monotonic() < deadline:
        time.sleep(0.02)
    assert answers(reported(1, age=0.0), 1) is None
    assert answers(reported(1, age=10.0), 2) == [{"welcome": duty.token}, {"code": 4, "own": False}]
    hub.join(3)
    assert not hub.is_alive()
    assert "rank 0 on node01 lost after step 0 (start-up): its process is gone" in capsys.readouterr().err
