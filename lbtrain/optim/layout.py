"""Which part of which layer this process steps.

A layer-wise optimizer needs the norm of the whole layer, while it may hold a slice of it:

- plain torch and DDP hand over whole layers;
- FSDP2 (and any DTensor sharded along one mesh axis) hands over DTensors, each with its local shard;
- DeepSpeed and ColossalAI hand over tensors in which layers, or parts of them, lie flat: see sharding.py.

Every rank yields one `Slice` for every layer, in one order, empty where it holds nothing, so that the vectors
of squared norms that the ranks add up agree by construction. Anything else is rejected with
`UnsupportedSharding`: a layer norm taken over the wrong elements would train, silently, with the wrong step.
"""

import weakref
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from lbtrain.errors import UserError


class UnsupportedSharding(UserError, ValueError):
    """The optimizer was handed tensors in which it cannot tell the layers apart."""

    exit_code = 2


class Slice(NamedTuple):
    """The part of one layer held here: flat or whole tensors of one shape; `process_group` holds the other
    parts (None: nobody). The part is elements `offset` to `offset + weight.numel()` of a layer of `shape`.
    """

    name: str
    weight: Tensor
    gradient: Tensor
    state: dict[str, Tensor]
    process_group: dist.ProcessGroup | None
    shape: torch.Size
    offset: int


class Layout(Protocol):
    """Says how the tensors that an optimizer holds are made of layers."""

    def register(self, parameter: Tensor) -> None:
        """Note that the user, not a sharding engine, handed this tensor over."""

    def knows(self, parameter: Tensor) -> bool:
        """Say whether this is a tensor that was registered."""

    def check(self, parameter: Tensor) -> None:
        """Raise UnsupportedSharding for a tensor whose layers cannot be told apart."""

    def slices(self, parameter: Tensor, name: str, gradient: Tensor, state: dict[str, Tensor]) -> list[Slice]:
        """Cut a tensor, its gradient and its states into the slices of layers held here; empty ones too, in
        one order on every rank.
        """


class WholeLayers:
    """The layout of plain torch, DDP and FSDP2: every parameter is one layer."""

    def __init__(self) -> None:
        self._known: dict[int, weakref.ref[Tensor]] = {}

    def register(self, parameter: Tensor) -> None:
        """Note that the user, not a sharding engine, handed this tensor over."""
        self._known[id(parameter)] = weakref.ref(parameter)
        self.check(parameter)

    def knows(self, parameter: Tensor) -> bool:
        known = self._known.get(id(parameter))
        return known is not None and known() is parameter

    def whole(self, parameter: Tensor) -> bool:
        """Say whether this is a layer, or a DTensor, which says itself how it is sharded."""
        # FSDP1 leaves these marks on its flat parameters and (use_orig_params) on its shards of the user's.
        by_fsdp1 = getattr(parameter, "_is_flat_param", False) or getattr(parameter, "_fsdp_flattened", False)
        return not by_fsdp1 and (self.knows(parameter) or isinstance(parameter, DTensor))

    def check(self, parameter: Tensor) -> None:
        """Reject a tensor that an engine put in a parameter's place."""
        if not self.whole(parameter):
            raise UnsupportedSharding(
                f"the optimizer was given layers and now holds a tensor of shape {tuple(parameter.shape)} "
                "that is none of them: an engine has flattened or cut them, and layer norms over the cut "
                "would be wrong. Under DeepSpeed call lbtrain.optim.bind_deepspeed(optimizer, engine) after "
                "deepspeed.initialize (stage 0 with half weights takes a step before that: use "
                "torch_autocast, or stage 1); under ColossalAI bind_colossalai after booster.boost; in place "
                "of FSDP1 use FSDP2 (fully_shard)"
            )

    def slices(self, parameter: Tensor, name: str, gradient: Tensor, state: dict[str, Tensor]) -> list[Slice]:
        """Cut one parameter, its gradient and its state: here into the one slice that is held."""
        if isinstance(parameter, DTensor):
            local = {
                key: value.to_local() if isinstance(value, DTensor) else value for key, value in state.items()
            }
            return [
                Slice(
                    name,
                    parameter.to_local(),
                    _local_like(gradient, parameter),
                    local,
                    _shard_group(parameter, name),
                    parameter.shape,
                    _offset(parameter),
                )
            ]
        return [Slice(name, parameter, gradient, state, None, parameter.shape, 0)]


def _local_like(gradient: Tensor, parameter: DTensor) -> Tensor:
    assert isinstance(gradient, DTensor)
    if gradient.placements != parameter.placements:
        gradient = gradient.redistribute(parameter.device_mesh, parameter.placements)
    return gradient.to_local()


def _shard_group(parameter: DTensor, name: str) -> dist.ProcessGroup | None:
    if not all(isinstance(placement, Shard | Replicate) for placement in parameter.placements):
        raise UnsupportedSharding(
            f"{name} is a DTensor placed as {parameter.placements}; LARS and LAMB know Shard and Replicate"
        )
    axes = [axis for axis, placement in enumerate(parameter.placements) if isinstance(placement, Shard)]
    if len(axes) > 1:
        raise UnsupportedSharding(
            f"{name} is sharded along {len(axes)} mesh axes; layer norms are added along one. Shard along one"
        )
    return parameter.device_mesh.get_group(axes[0]) if axes else None


def _offset(parameter: DTensor) -> int:
    """Where the local shard begins in the layer, in elements; -1 where its elements do not lie together."""
    axes = [placement for placement in parameter.placements if isinstance(placement, Shard)]
    if axes and axes[0].dim != 0:
        return -1
    _, first = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    return first[0] * parameter.shape[1:].numel() if first else 0


def sum_over_ranks(squares: Tensor, slices: list[Slice]) -> Tensor:
    """Add each layer's row of `squares` [layers, numbers] over the ranks that hold its slices: one all-reduce
    (one per process group).
    """
    process_groups = {
        id(part.process_group): part.process_group for part in slices if part.process_group is not None
    }
    for process_group in process_groups.values():
        rows = [row for row, part in enumerate(slices) if part.process_group is process_group]
        whole = squares[rows]
        dist.all_reduce(whole, group=process_group)
        squares[rows] = whole
    return squares
