"""How guards and hub speak: messages over sockets that never block."""

import contextlib
import json
import selectors
import socket
from typing import Any

from .duty import Duty

Message = dict[str, Any]


class Line:
    """Messages, one JSON object a line, over a socket that never blocks."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self.socket.setblocking(False)
        self.received = b""
        self.unsent = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, **message: Any) -> None:
        self.unsent += json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):  # who does not take it is found by its silence
            self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def messages(self) -> list[Message] | None:
        """What has come; None once the other end is closed."""
        closed = False
        try:
            while part := self.socket.recv(65536):
                self.received += part
            closed = True
        except BlockingIOError:
            pass
        except OSError:
            closed = True
        *whole, self.received = self.received.split(b"\n")
        try:
            messages = [json.loads(line) for line in whole]
        except ValueError:
            return None  # not one of us
        return messages if messages or not closed else None


def selectable(lines: list[Line], seconds: float) -> list[Line]:
    """Those of `lines` that have something to read within so many seconds."""
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line.socket, selectors.EVENT_READ, line)
        return [key.data for key, _ in selector.select(seconds)]


def connected(address: str, port: int, seconds: float) -> socket.socket:
    """A socket to the hub. Raises OSError if it does not answer within so many seconds."""
    return socket.create_connection((address, port), timeout=max(seconds, 0.5))


def listening(duty: Duty) -> socket.socket | None:
    """The hub's door; None if none of its ports is free (the guards then miss the hub and say so)."""
    for port in duty.ports:
        for dual in (True, False):  # both versions of IP where there are two
            with contextlib.suppress(OSError, ValueError):
                family = socket.AF_INET6 if dual else socket.AF_INET
                return socket.create_server(("", port), backlog=1024, family=family, dualstack_ipv6=dual)
    return None
