"""What a data set consists of, as short texts that can be compared: between ranks, and between a run and its
resumption.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Indexed(Protocol):
    """One half of a data set."""

    def __len__(self) -> int: ...

    def index(self) -> Mapping[str, Any]:
        """What it consists of: arrays, tensors and lists by name (class names, labels, file names)."""
        ...


def index_fingerprint(**halves: Indexed) -> dict[str, str]:
    """`{half}.examples` and, for each part of the half's index, `{half}.{part}`: its SHA-256, 16 digits."""
    found = {}
    for half, source in halves.items():
        found[f"{half}.examples"] = str(len(source))
        found |= {f"{half}.{name}": _digest(part) for name, part in source.index().items()}
    return found


def _digest(part: Any) -> str:
    if isinstance(part, Tensor):
        part = part.cpu().numpy()
    content = np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else json.dumps(part).encode()
    return hashlib.sha256(content).hexdigest()[:16]
