"""Device streams that do nothing, so that LowLevelZero runs on a CPU. For tests alone: nothing here
overlaps.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

import lbtrain.plan.validate


@contextlib.contextmanager
def streams_on_cpu() -> Iterator[None]:
    """ColossalAI takes the CPU for a GPU whose streams are all the same, and the plan lets it."""
    from colossalai.accelerator import get_accelerator, set_accelerator
    from colossalai.accelerator.cpu_accelerator import CpuAccelerator

    class Streams(CpuAccelerator):
        def __init__(self) -> None:
            super().__init__()
            self._name = "cuda"

        def Stream(self, *_: Any, **__: Any) -> None:
            return None

        def current_stream(self, device: torch.device | None = None) -> None:
            return None

        def stream(self, stream_: None) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

    before, refused = get_accelerator(), dict(lbtrain.plan.validate.NOT_ON_CPU)
    set_accelerator(Streams())
    lbtrain.plan.validate.NOT_ON_CPU.clear()
    try:
        yield
    finally:
        set_accelerator(before)
        lbtrain.plan.validate.NOT_ON_CPU.update(refused)
