"""What the hub knows of one rank."""

from dataclasses import dataclass

from .line import Line


@dataclass
class Member:
    """What the hub knows of one rank."""

    line: Line
    rank: int = -1
    host: str = ""
    step: int = 0
    doing: str = ""
    silent: float = 0.0
