"""Where, when and by which code a launch was measured."""

import datetime
import platform
import socket
from typing import Any

import torch

from lbtrain.runs.provenance import commit, hardware, versions


def origin() -> dict[str, Any]:
    """Of what this process measures."""
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    return {
        "host": socket.gethostname(),
        "device": device,
        "commit": commit(),
        "date": str(datetime.date.today()),
        "hardware": hardware(),
        "versions": versions(),
    }
