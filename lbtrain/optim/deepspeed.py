"""Where DeepSpeed puts the layers: all that lbtrain knows of how it lays an optimizer out.

What it does to the parameter groups (0.19.8), and where it says so:

    engine.optimizer    each group's `params` become              where the layers lie
    the optimizer       (stage 0 in fp32 or autocast) layers
    FP16_Unfused...     (stage 0, half weights) fp32 copies       rejected: it steps the optimizer before it
                        of whole layers                           can be bound
    BF16_Optimizer      (stage 1, bf16) this rank's shard of      `parameter._hp_mapping`: place in the shard,
                        one flat tensor                           place in the layer
    stages 1 and 2      the same                                  the same; None where this rank holds none
                                                                  of the layer
    stage 3             a shard of every layer, one after the     `fp16_groups[s]`, each of length
                        other, padded                             `partition_numel()`

`sharding.Shards` checks that this is so.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .layerwise import LayerwiseOptimizer
from .layout import UnsupportedSharding
from .sharding import FlatTensor, Shard, Shards


def bind_deepspeed(optimizer: torch.optim.Optimizer, engine: Any) -> None:
    """Tell LARS or LAMB where DeepSpeed has put its layers. Call it on every rank, right after
    `deepspeed.initialize`, at any ZeRO stage.

    Optimizers that treat every element alike (torch.optim.SGD) need nothing and are left as they are.
    Raises `UnsupportedSharding` on every rank if the layout is not one that is understood.
    """
    if isinstance(optimizer, LayerwiseOptimizer) and engine.optimizer is not optimizer:
        deepspeed_shards(engine).bind(optimizer)


def deepspeed_shards(engine: Any) -> Shards:
    """Where DeepSpeed's optimizer puts the layers; see the table above. Raises UnsupportedSharding."""
    zero, library = engine.optimizer, _library()
    reader = _READERS.get(type(zero).__name__)
    if reader is None:
        known = ", ".join(_READERS)
        raise UnsupportedSharding(
            f"{library} wraps the optimizer in {type(zero).__name__}; known are {known}"
        )
    for switch in ("swap_optimizer", "zenflow", "has_moe_layers"):
        if getattr(zero, switch, False):
            raise UnsupportedSharding(
                f"{library} lays weights out in an unknown way under {switch}; turn it off in the DeepSpeed "
                "configuration"
            )
    if getattr(zero, "model_parallel_group", None) is not None:
        raise UnsupportedSharding(
            f"{library} has model parallelism on, and layers are put together over data-parallel ranks only; "
            "turn it off"
        )
    try:
        flats = list(
            reader(zero, {id(parameter): name for name, parameter in engine.module.named_parameters()})
        )
    except AttributeError as error:
        raise UnsupportedSharding(
            f"{library} lays {type(zero).__name__} out in an unknown way: {error}"
        ) from error
    offload = next((switch for switch in _OFFLOADS if getattr(zero, switch, False)), "")
    return Shards(library, engine.module, flats, _gathered, offload)


def _read_mapped(tensors: str, groups: str) -> Callable[[Any, dict[int, str]], Iterator[FlatTensor]]:
    def read(zero: Any, names: dict[int, str]) -> Iterator[FlatTensor]:
        for index, flat in enumerate(getattr(zero, tensors)):
            shards = [
                _mapped_shard(parameter, names[id(parameter)]) for parameter in getattr(zero, groups)[index]
            ]
            yield FlatTensor(flat, shards, zero.real_dp_process_group[index])

    return read


def _mapped_shard(parameter: Any, name: str) -> Shard:
    mapping = parameter._hp_mapping
    if mapping is None:
        return Shard(name, parameter, 0, 0, 0)
    return Shard(
        name,
        parameter,
        mapping.lp_fragment_address.start,
        mapping.hp_fragment_address.start,
        mapping.hp_fragment_address.numel,
    )


def _read_stage_3(zero: Any, names: dict[int, str]) -> Iterator[FlatTensor]:
    for flat, parameters in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
        process_group = parameters[0].ds_process_group
        shards, start = [], 0
        for parameter in parameters:
            length = parameter.partition_numel()
            offset = min(dist.get_rank(process_group) * length, parameter.ds_numel)
            shards.append(
                Shard(
                    names[id(parameter)], parameter, offset, start, min(length, parameter.ds_numel - offset)
                )
            )
            start += length
        yield FlatTensor(flat, shards, process_group)


_OFFLOADS = ("cpu_offload", "offload_optimizer")
"""Of stages 1 and 2, and of stage 3."""

_READERS: dict[str, Callable[[Any, dict[int, str]], Iterator[FlatTensor]]] = {
    "DeepSpeedZeroOptimizer": _read_mapped("single_partition_of_fp32_groups", "bit16_groups"),
    "DeepSpeedZeroOptimizer_Stage3": _read_stage_3,
    "BF16_Optimizer": _read_mapped("fp32_groups_flat_partition", "bf16_groups"),
}


def _gathered(parameter: nn.Parameter, *, modify: bool = False) -> AbstractContextManager[Any]:
    """Make a parameter that stage 3 has sharded whole for a while (others are)."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    whole: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        [parameter], modifier_rank=0 if modify else None
    )
    return whole


def _library() -> str:
    import deepspeed

    return f"DeepSpeed {deepspeed.__version__}"
