"""Wrappers around a network that an engine brings itself."""

from torch import nn

_WRAPPERS = {
    "OptimizedModule": "give the network itself (its _orig_mod) and set compile=true",
    "DistributedDataParallel": "give the network itself (its module): the engine averages the gradients",
    "FullyShardedDataParallel": "give the network itself (its module): the engine shards, if it is told to",
    "DataParallel": "give the network itself (its module) and start one process per GPU",
    "DeepSpeedEngine": "give the network itself (its module): the engine brings DeepSpeed",
}
"""Class names, since some are optional imports, and what to do instead."""


def check_unwrapped(model: nn.Module) -> None:
    """Raises ValueError for a model that is, or holds, a network in a wrapper: gradients would be averaged
    twice, or weights saved under other names.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in _WRAPPERS:
            raise ValueError(f"{name or 'the model'} is wrapped in {kind}: {_WRAPPERS[kind]}")
