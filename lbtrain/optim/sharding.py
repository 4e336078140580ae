"""LARS and LAMB under DeepSpeed, whole tensors for checkpoints: all that lbtrain knows of how DeepSpeed lays an optimizer out.

What it does to the parameter groups (0.19.8), and where it says so:

=================  =======================================================  =========================================================
engine.optimizer   each group's `params` become                             where the layers lie
=================  =======================================================  =========================================================
the optimizer      (stage 0 in fp32 or autocast) stay whole layers
FP16_Unfused...    (stage 0, half weights) fp32 copies of whole layers      refused: it steps the optimizer before it can be bound
BF16_Optimizer     (stage 1, bf16) this rank's cut of one flat tensor       `parameter._hp_mapping`: place in the cut, place in the layer
stages 1 and 2     the same                                                 the same; None where this rank holds none of the layer
stage 3            a cut of every layer, one after the other, padded        `fp16_groups[s]`, each of length `partition_numel()`
=================  =======================================================  =========================================================

None of it is an interface, so nothing is believed: `bind_deepspeed` compares every slice with the weights that it should hold, counts
that the slices of all ranks make up each layer, and refuses where they do not.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .layerwise import LayerwiseOptimizer
from .layout import Slice, UnsupportedSharding

NamedStates = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Cut:
    """Elements `offset` to `offset + numel` of a layer, which lie at `start` in a flat tensor; numel is 0 where this rank holds none."""

    name: str
    parameter: nn.Parameter
    offset: int
    start: int
    numel: int

    @property
    def shape(self) -> torch.Size:
        return torch.Size(getattr(self.parameter, "ds_shape", self.parameter.shape))

    def of(self, flat: Tensor) -> Tensor:
        return flat.view(-1).narrow(0, self.start, self.numel)

    def of_layer(self, layer: Tensor) -> Tensor:
        return layer.reshape(-1).narrow(0, self.offset, self.numel)


class FlatTensor:
    """What the inner optimizer holds in place of some layers: on every rank the same layers in the same order."""

    def __init__(self, tensor: Tensor, cuts: list[Cut], process_group: dist.ProcessGroup | None):
        self.tensor, self.cuts, self.process_group = tensor, cuts, process_group
        self._sections: list[int] = []
        self._places = [0] * len(cuts)
        end = 0
        for row in sorted(range(len(cuts)), key=lambda row: (cuts[row].start, cuts[row].numel)):
            gap = max(cuts[row].start - end, 0)
            self._sections += [gap, cuts[row].numel]
            self._places[row] = len(self._sections) - 1
            end += gap + cuts[row].numel
        self._sections.append(tensor.numel() - end)

    def views(self, tensor: Tensor) -> list[Tensor]:
        """Cut a tensor of the flat shape as the layers lie in it: a view for every cut, made in one call."""
        sections = tensor.view(-1).split(self._sections)
        return [sections[place] for place in self._places]


class FlatLayers:
    """The layout of an optimizer bound to DeepSpeed; stands in for `layout.WholeLayers`."""

    def __init__(self, flats: list[FlatTensor]):
        self.flats = {id(flat.tensor): flat for flat in flats}

    def register(self, parameter: Tensor) -> None:
        raise UnsupportedSharding("a parameter group was added after bind_deepspeed; add it before deepspeed.initialize")

    def knows(self, parameter: Tensor) -> bool:
        return any(cut.parameter is parameter for flat in self.flats.values() for cut in flat.cuts)

    def check(self, parameter: Tensor) -> None:
        """Refuse a tensor that was not there when the optimizer was bound."""
        flat = self.flats.get(id(parameter))
        if flat is None or flat.tensor is not parameter:
            raise UnsupportedSharding("DeepSpeed's flat tensors are others than at bind_deepspeed; bind the optimizer to the new engine")

    def slices(self, parameter: Tensor, name: str, gradient: Tensor, state: dict[str, Tensor]) -> list[Slice]:
        """Cut a flat tensor, its gradient and its states into the layers' slices."""
        flat = self.flats[id(parameter)]
        keys = [key for key, value in state.items() if value.shape == parameter.shape]
        whole = {key: value for key, value in state.items() if key not in keys}
        tensors = zip(flat.cuts, flat.views(parameter), flat.views(gradient), *(flat.views(state[key]) for key in keys), strict=True)
        return [
            Slice(cut.name, weight, part, whole | dict(zip(keys, states, strict=True)), flat.process_group)
            for cut, weight, part, *states in tensors
        ]


def bind_deepspeed(optimizer: torch.optim.Optimizer, engine: Any) -> None:
    """Tell LARS or LAMB where DeepSpeed has put its layers. Call it on every rank, right after `deepspeed.initialize`, at any ZeRO stage.

    Optimizers that treat every element alike (torch.optim.SGD) need nothing and are left as they are.
    Raises `UnsupportedSharding` on every rank if the layout is not one that is understood.
    """
    if not isinstance(optimizer, LayerwiseOptimizer) or engine.optimizer is optimizer:
        return
    flats = read_layout(engine)
    _verify(flats)
    bound = {id(cut.parameter) for flat in flats for cut in flat.cuts}
    given = {name: parameter for name, parameter in engine.module.named_parameters() if optimizer.layout.knows(parameter)}
    lost = [name for name, parameter in given.items() if parameter.requires_grad and id(parameter) not in bound]
    if lost:
        raise UnsupportedSharding(f"DeepSpeed {_version()} has no flat tensor for {lost[0]} ({len(lost)} such parameters); see {__name__}")
    optimizer.layout = FlatLayers(flats)


def read_layout(engine: Any) -> list[FlatTensor]:
    """Read where the layers lie from DeepSpeed's optimizer; see the table above."""
    zero = engine.optimizer
    reader = _READERS.get(type(zero).__name__)
    if reader is None:
        known = ", ".join(_READERS)
        raise UnsupportedSharding(f"DeepSpeed {_version()} wraps the optimizer in {type(zero).__name__}; known are {known}")
    for switch in ("cpu_offload", "offload_optimizer", "swap_optimizer", "zenflow", "has_moe_layers"):
        if getattr(zero, switch, False):
            raise UnsupportedSharding(f"LARS and LAMB do not support DeepSpeed's {switch}; turn it off in the DeepSpeed configuration")
    if getattr(zero, "model_parallel_group", None) is not None:
        raise UnsupportedSharding("LARS and LAMB do not support model parallelism: layer norms are added over data-parallel ranks only")
    try:
        return list(reader(zero, {id(parameter): name for name, parameter in engine.module.named_parameters()}))
    except AttributeError as error:
        raise UnsupportedSharding(f"DeepSpeed {_version()} lays {type(zero).__name__} out in an unknown way: {error}") from error


def _read_mapped(tensors: str, groups: str) -> Callable[[Any, dict[int, str]], Iterator[FlatTensor]]:
    def read(zero: Any, names: dict[int, str]) -> Iterator[FlatTensor]:
        for index, flat in enumerate(getattr(zero, tensors)):
            cuts = [_mapped_cut(parameter, names[id(parameter)]) for parameter in getattr(zero, groups)[index]]
            yield FlatTensor(flat, cuts, zero.real_dp_process_group[index])

    return read


def _mapped_cut(parameter: Any, name: str) -> Cut:
    mapping = parameter._hp_mapping
    if mapping is None:
        return Cut(name, parameter, 0, 0, 0)
    return Cut(name, parameter, mapping.lp_fragment_address.start, mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel)


def _read_stage_3(zero: Any, names: dict[int, str]) -> Iterator[FlatTensor]:
    for flat, parameters in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
        process_group = parameters[0].ds_process_group
        cuts, start = [], 0
        for parameter in parameters:
            length = parameter.partition_numel()
            offset = min(dist.get_rank(process_group) * length, parameter.ds_numel)
            cuts.append(Cut(names[id(parameter)], parameter, offset, start, min(length, parameter.ds_numel - offset)))
            start += length
        yield FlatTensor(flat, cuts, process_group)


_READERS: dict[str, Callable[[Any, dict[int, str]], Iterator[FlatTensor]]] = {
    "DeepSpeedZeroOptimizer": _read_mapped("single_partition_of_fp32_groups", "bit16_groups"),
    "DeepSpeedZeroOptimizer_Stage3": _read_stage_3,
    "BF16_Optimizer": _read_mapped("fp32_groups_flat_partition", "bf16_groups"),
}


def _verify(flats: list[FlatTensor]) -> None:
    """Compare every slice with the weights it should hold, and count the elements of each layer over the ranks."""
    for flat in flats:
        held = torch.zeros(len(flat.cuts), dtype=torch.int64, device=flat.tensor.device)
        for row, cut in enumerate(flat.cuts):
            with _gathered(cut.parameter):
                # A rank that finds a difference says so in its count, so that all ranks raise, and none waits for the others.
                same = torch.equal(cut.of(flat.tensor.detach()).to(cut.parameter.dtype), cut.of_layer(cut.parameter.detach()))
            held[row] = cut.numel if same else -cut.shape.numel()
        if flat.process_group is not None:
            dist.all_reduce(held, group=flat.process_group)
        for cut, count in zip(flat.cuts, held.tolist(), strict=True):
            if count != cut.shape.numel():
                raise UnsupportedSharding(
                    f"DeepSpeed {_version()} does not lay out {cut.name} as expected: its {cut.shape.numel()} weights were not found where "
                    f"{type(flat).__name__} says. Train with zero_stage 0, or with an optimizer that treats every weight alike (sgd)"
                )


def gather_state(engine: Any, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], NamedStates]:
    """Return the model's state dict with fp32 master weights, and {parameter name: {state name: whole tensor}}, on the CPU of every rank.

    The result does not depend on the ZeRO stage or the number of ranks. A collective call.
    """
    weights: dict[int, Tensor] = {}
    states: NamedStates = {}
    for flat in read_layout(engine):
        for cut in flat.cuts:
            weights[id(cut.parameter)] = _whole(flat.tensor.detach(), cut, flat.process_group)
            state = optimizer.state.get(flat.tensor, {})
            tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
            states[cut.name] = {k: v.cpu().clone() if k == "step" else _whole(v, cut, flat.process_group) for k, v in tensors.items()}
    model = {name: tensor.detach().cpu().clone() for name, tensor in engine.module.state_dict().items()}
    for name, parameter in engine.module.named_parameters(remove_duplicate=False):
        with _gathered(parameter):
            model[name] = weights[id(parameter)] if id(parameter) in weights else parameter.detach().cpu().clone()
    return model, {name: state for name, state in states.items() if state}


def _whole(flat: Tensor, cut: Cut, process_group: dist.ProcessGroup | None) -> Tensor:
    layer = flat.new_zeros(cut.shape.numel())
    cut.of_layer(layer).copy_(cut.of(flat))
    if process_group is not None:
        dist.all_reduce(layer, group=process_group)
    return layer.view(cut.shape).cpu()


@torch.no_grad()
def scatter_state(engine: Any, optimizer: torch.optim.Optimizer, model: dict[str, Tensor], states: NamedStates) -> None:
    """Put back what `gather_state` returned, whatever the stage and the number of ranks then and now. A collective call."""
    flats = read_layout(engine)
    unknown = sorted(states.keys() - {cut.name for flat in flats for cut in flat.cuts})
    if unknown:
        raise ValueError(
            f"the checkpoint has optimizer states of {unknown[0]} ({len(unknown)} such names), which this model does not train"
        )
    _load_model(engine.module, model)
    for flat in flats:
        for cut in flat.cuts:
            cut.of(flat.tensor).copy_(cut.of_layer(model[cut.name]))
            for key, value in states.get(cut.name, {}).items():
                _put(optimizer.state[flat.tensor], key, value, cut, flat.tensor)


def _put(state: dict[str, Tensor], key: str, value: Tensor, cut: Cut, flat: Tensor) -> None:
    if key == "step":
        state[key] = value.to(flat.device, copy=True)
        return
    if state.get(key) is None:
        state[key] = torch.zeros_like(flat)
    cut.of(state[key]).copy_(cut.of_layer(value))


def _load_model(module: nn.Module, model: dict[str, Tensor]) -> None:
    buffers = dict(module.named_buffers())
    missing = sorted((dict(module.named_parameters()).keys() | module.state_dict().keys()) - model.keys())
    if missing:
        raise ValueError(f"the checkpoint lacks {missing[0]} ({len(missing)} such names); it is another model's")
    for name, tensor in module.named_parameters():
        with _gathered(tensor, modify=True):
            tensor.copy_(model[name])
    for name, buffer in buffers.items():
        if name in model:
            buffer.copy_(model[name])


def _gathered(parameter: nn.Parameter, *, modify: bool = False) -> Any:
    """Make a parameter that stage 3 has cut whole for a while (others are)."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if modify else None)


def _version() -> str:
    import deepspeed

    return str(deepspeed.__version__)
