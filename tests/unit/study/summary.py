"""What every summary.json of a made-up run says beside its score."""

from typing import Any

ORIGIN: dict[str, Any] = {
    "seconds": 1.0,
    "step": 10,
    "commit": "abc",
    "hardware": "2 cores",
    "versions": {"torch": "2.0"},
}
