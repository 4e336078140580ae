"""LowLevelZero on a CPU, for tests alone: the plan lets it, and its device streams do nothing."""

import contextlib
from collections.abc import Iterator

import lbtrain.plan.validate_engine
from tools.verify import sharding


@contextlib.contextmanager
def streams_on_cpu() -> Iterator[None]:
    rejected = dict(lbtrain.plan.validate_engine.NOT_ON_CPU)
    lbtrain.plan.validate_engine.NOT_ON_CPU.clear()
    try:
        with sharding.streams_on_cpu():
            yield
    finally:
        lbtrain.plan.validate_engine.NOT_ON_CPU.update(rejected)
