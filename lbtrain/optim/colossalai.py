"""Where ColossalAI puts the layers: all that lbtrain knows of how its LowLevelZeroOptimizer (ZeRO stages 1
and 2) lays an optimizer out.

Of every parameter, padded to a multiple of the ranks, each rank's optimizer gets one equal part in fp32
(0.5.0):

    _working_param_groups[g]                 the model's parameters of group g
    _master_param_groups_of_current_rank[g]  this rank's part of each, in the same order; the padding lies at
                                             the end of the last parts
    param_to_pg[parameter]                   the process group over which it is sharded

`sharding.Shards` checks that this is so. In a step a group's `params` are for a while only those with a
gradient; these lists stay.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from .layerwise import LayerwiseOptimizer
from .layout import UnsupportedSharding
from .sharding import FlatTensor, Shard, Shards


def bind_colossalai(optimizer: torch.optim.Optimizer, boosted: tuple[Any, Any]) -> None:
    """Tell LARS or LAMB where ColossalAI has put its layers. Call it on every rank, right after
    `booster.boost`, under any plugin.

    `boosted`: the model and the optimizer that `booster.boost` returned. Optimizers that treat every element
    alike (torch.optim.SGD) need nothing and are left as they are, and so is any under TorchDDPPlugin, which
    leaves layers whole. Raises `UnsupportedSharding` on every rank if the layout is not one that is
    understood.
    """
    if isinstance(optimizer, LayerwiseOptimizer) and type(boosted[1]).__name__ != "OptimizerWrapper":
        colossalai_shards(boosted).bind(optimizer)


def colossalai_shards(boosted: tuple[Any, Any]) -> Shards:
    """Where ColossalAI's optimizer puts the layers; see the table above. Raises UnsupportedSharding."""
    model, zero = boosted
    library = _library()
    if type(zero).__name__ != "LowLevelZeroOptimizer":
        raise UnsupportedSharding(
            f"{library} wraps the optimizer in {type(zero).__name__}; known is LowLevelZeroOptimizer"
        )
    try:
        if zero._cpu_offload:
            raise UnsupportedSharding(
                "LARS and LAMB do not support ColossalAI's cpu_offload; leave it out of the plugin"
            )
        flats = list(
            _read_parts(zero, {id(parameter): name for name, parameter in model.module.named_parameters()})
        )
    except AttributeError as error:
        raise UnsupportedSharding(
            f"{library} lays {type(zero).__name__} out in an unknown way: {error}"
        ) from error
    return Shards(library, model.module, flats)


def _read_parts(zero: Any, names: dict[int, str]) -> Iterator[FlatTensor]:
    for group, parameters in zero._working_param_groups.items():
        for parameter, part in zip(parameters, zero._master_param_groups_of_current_rank[group], strict=True):
            process_group = zero.param_to_pg[parameter]
            if isinstance(process_group, tuple):
                raise UnsupportedSharding(
                    "LARS and LAMB do not support ColossalAI's extra_dp_size; layer norms are added over "
                    "one process group"
                )
            offset = min(dist.get_rank(process_group) * part.numel(), parameter.numel())
            held = min(part.numel(), parameter.numel() - offset)
            yield FlatTensor(part, [Shard(names[id(parameter)], parameter, offset, 0, held)], process_group)


def _library() -> str:
    import colossalai

    return f"ColossalAI {colossalai.__version__}"
