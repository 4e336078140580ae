"""Layers that depend on the other images of the batch, and their conversion to ghost batch norm."""

import functools
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin

from lbtrain.nn.ghost_bn import STEP_BUFFERS, GhostBatchNorm, GhostBatchNorm1d, GhostBatchNorm2d

_USE_BATCH_NORM = "use batch norm, whose statistics bn_batch_size sets (norm_layer=batchnorm2d in timm)"
_USE_SAMPLE_BASED = "use its sample-based series (norm_layer=evonorms0 in timm)"
_REJECTED = {
    "SyncBatchNorm": ("takes its statistics over all ranks, however many there are", _USE_BATCH_NORM),
    "SyncBatchNormAct": ("takes its statistics over all ranks, however many there are", _USE_BATCH_NORM),
    "SplitBatchNorm2d": ("takes its statistics over shares of a micro-batch", _USE_BATCH_NORM),
    "InplaceAbn": ("takes its statistics over a micro-batch, in a kernel of its own", _USE_BATCH_NORM),
    "EvoNorm2dB0": ("takes its statistics over a micro-batch", _USE_SAMPLE_BASED),
    "EvoNorm2dB1": ("takes its statistics over a micro-batch", _USE_SAMPLE_BASED),
    "EvoNorm2dB2": ("takes its statistics over a micro-batch", _USE_SAMPLE_BASED),
}
"""Layers with batch statistics that have no ghost form, by class name (some are optional imports): what they
do, and what to use instead.
"""


def convert_to_ghost_batch_norm(
    model: nn.Module,
    ghost_size: int,
    *,
    momentum: float | None = None,
    ranks_per_ghost: int = 1,
    compiled: bool = False,
) -> nn.Module:
    """Turn every batch-norm layer of `model` into its ghost form, in place; weights, buffers, modes and
    state-dict keys stay.

    `momentum`: weight of a step's statistics in the running ones; None leaves each layer its own.
    `ranks_per_ghost` > 1: a ghost batch spans that many neighbouring ranks (collective: every rank must call
    this). `compiled`: the model is to be compiled by torch.compile. Under torch's DistributedDataParallel,
    wrap `model` itself, or give it broadcast_buffers=False. Raises ValueError for a layer that depends on the
    other images of the batch and has no ghost form.
    """
    check_batch_statistics(model)
    group = _ghost_group(ranks_per_ghost) if ranks_per_ghost > 1 else None
    for module in _batch_norms(model):
        kind: Any = type(module)
        module.__class__ = _ghost_class(kind)
        module.momentum = module.momentum if momentum is None else momentum
        module.become_ghost(ghost_size, group, compiled=compiled)
    _keep_from_broadcasts(model)
    return model


def _keep_from_broadcasts(model: nn.Module) -> None:
    """Before a forward pass DistributedDataParallel gives every rank the buffers of rank 0; the statistics of
    a step that is under way are each rank's own. It reads from this attribute what it is to leave alone.
    """
    own = [
        f"{name}.{buffer}".removeprefix(".")
        for name, module in model.named_modules()
        if isinstance(module, GhostBatchNorm)
        for buffer in STEP_BUFFERS
    ]
    marked: Any = model
    marked._ddp_params_and_buffers_to_ignore = [
        *getattr(model, "_ddp_params_and_buffers_to_ignore", ()),
        *own,
    ]


def regroup_ghost_batches(model: nn.Module, ranks_per_ghost: int, momentum: float | None = None) -> None:
    """Let a ghost batch span so many neighbouring ranks from the next step on, in a model that was converted,
    and a step's statistics have the weight `momentum` in the running ones (None: as before). Collective,
    between steps.
    """
    norms = [module for module in model.modules() if isinstance(module, GhostBatchNorm)]
    group = norms[0].group if norms else None
    if ranks_per_ghost != (dist.get_world_size(group) if group else 1):  # else it stays: NCCL keeps every one
        group = _ghost_group(ranks_per_ghost) if ranks_per_ghost > 1 else None
    for module in norms:
        module.group = group
        module.momentum = module.momentum if momentum is None else momentum


def check_batch_statistics(model: nn.Module) -> int:
    """The number of layers that ghost batch norm replaces. Raises ValueError, naming the layer, for one whose
    result depends on the other images of the batch and that has no ghost form.
    """
    for name, module in model.named_modules():
        reason = _why_rejected(module)
        if reason:
            raise ValueError(f"{name or 'the model'} is a {type(module).__name__}, which {reason}")
    return len(_batch_norms(model))


def _why_rejected(module: nn.Module) -> str:
    kind = type(module)
    if kind.__name__ in _REJECTED:
        return "{}: {}".format(*_REJECTED[kind.__name__])
    if isinstance(module, _BatchNorm) and not _has_ghost_form(kind):
        return f"changes what batch norm computes, in a way that is not known here: {_USE_BATCH_NORM}"
    if isinstance(module, _BatchNorm) and not module.track_running_stats:
        return "depends on the batch in evaluation too: build it with track_running_stats=True"
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return "moves running statistics with every micro-batch: build it with track_running_stats=False"
    if not isinstance(module, _BatchNorm) and _keeps_statistics(module):
        return f"keeps running statistics of a kind that is not known here: {_USE_BATCH_NORM}"
    return ""


def _has_ghost_form(kind: Any) -> bool:
    plain = kind.forward is _BatchNorm.forward and not issubclass(kind, LazyModuleMixin)
    return plain or issubclass(kind, GhostBatchNorm) or kind in _own_forms()


def _keeps_statistics(module: nn.Module) -> bool:
    """Frozen layers have such buffers too, and never move them."""
    named = any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False))
    return named and "frozen" not in type(module).__name__.lower()


def _batch_norms(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@functools.cache
def _own_forms() -> dict[type, type[GhostBatchNorm]]:
    """Kinds of batch norm with a forward pass of their own, and those that have a public ghost form."""
    from timm.layers import BatchNormAct2d

    class GhostBatchNormAct2d(GhostBatchNorm, BatchNormAct2d):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.drop(self.normalise(x)))

    return {
        nn.BatchNorm1d: GhostBatchNorm1d,
        nn.BatchNorm2d: GhostBatchNorm2d,
        BatchNormAct2d: GhostBatchNormAct2d,
    }


@functools.cache
def _ghost_class(kind: Any) -> type[GhostBatchNorm]:
    """Whatever has batch norm's own forward pass gets the ghost's."""
    if issubclass(kind, GhostBatchNorm):
        return kind
    return _own_forms().get(kind) or type(f"Ghost{kind.__name__}", (GhostBatchNorm, kind), {})


def _ghost_group(ranks_per_ghost: int) -> Any:
    """This rank's group of neighbours. Every rank takes part in making every group."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    groups = [
        dist.new_group(list(range(first, first + ranks_per_ghost)))
        for first in range(0, world_size, ranks_per_ghost)
    ]
    return groups[rank // ranks_per_ghost]
