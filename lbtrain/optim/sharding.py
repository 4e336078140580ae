"""Layers that lie in flat tensors: how LARS and LAMB find them there, and how a checkpoint gets them whole.

An engine that shards hands the optimizer tensors in which layers, or parts of them, lie one after the other.
deepspeed.py and colossalai.py read where; none of it is an interface, so nothing is believed: `Shards.bind`
compares every slice with the weights that it should hold, counts that the slices of all ranks make up each
layer, and rejects the binding where they do not. The engines bind every optimizer: `gather` and `scatter`
believe the same places.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .layerwise import LayerwiseOptimizer
from .layout import Slice, UnsupportedSharding

NamedStates = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Shard:
    """Elements `offset` to `offset + numel` of a layer, which lie at `start` in a flat tensor; numel is 0
    where this rank holds none.
    """

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
    """What the inner optimizer holds in place of some layers: on every rank the same layers in the same
    order.
    """

    def __init__(self, tensor: Tensor, shards: list[Shard], process_group: dist.ProcessGroup | None):
        self.tensor, self.shards, self.process_group = tensor, shards, process_group
        self._sections: list[int] = []
        self._places = [0] * len(shards)
        end = 0
        for row in sorted(range(len(shards)), key=lambda row: (shards[row].start, shards[row].numel)):
            gap = max(shards[row].start - end, 0)
            self._sections += [gap, shards[row].numel]
            self._places[row] = len(self._sections) - 1
            end += gap + shards[row].numel
        self._sections.append(tensor.numel() - end)

    def views(self, tensor: Tensor) -> list[Tensor]:
        """Cut a tensor of the flat shape as the layers lie in it: a view for every cut, made in one call."""
        sections = tensor.view(-1).split(self._sections)
        return [sections[place] for place in self._places]


class FlatLayers:
    """The layout of an optimizer bound to an engine's slices; stands in for `layout.WholeLayers`."""

    def __init__(self, flats: list[FlatTensor]):
        self.flats = {id(flat.tensor): flat for flat in flats}

    def register(self, parameter: Tensor) -> None:
        raise UnsupportedSharding(
            "a parameter group was added after the optimizer was bound; add it before the engine is made"
        )

    def knows(self, parameter: Tensor) -> bool:
        return any(shard.parameter is parameter for flat in self.flats.values() for shard in flat.shards)

    def check(self, parameter: Tensor) -> None:
        """Reject a tensor that was not there when the optimizer was bound."""
        flat = self.flats.get(id(parameter))
        if flat is None or flat.tensor is not parameter:
            raise UnsupportedSharding(
                "the engine's tensors are others than when the optimizer was bound; bind it to the new engine"
            )

    def slices(self, parameter: Tensor, name: str, gradient: Tensor, state: dict[str, Tensor]) -> list[Slice]:
        """Cut a flat tensor, its gradient and its states into the layers' slices."""
        flat = self.flats[id(parameter)]
        keys = [key for key, value in state.items() if value.shape == parameter.shape]
        whole = {key: value for key, value in state.items() if key not in keys}
        tensors = zip(
            flat.shards,
            flat.views(parameter),
            flat.views(gradient),
            *(flat.views(state[key]) for key in keys),
            strict=True,
        )
        return [
            Slice(
                shard.name,
                weight,
                part,
                whole | dict(zip(keys, states, strict=True)),
                flat.process_group,
                shard.shape,
                shard.offset,
            )
            for shard, weight, part, *states in tensors
        ]


def _whole_already(parameter: nn.Parameter, *, modify: bool = False) -> AbstractContextManager[Any]:
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Shards:
    """A model and where an engine has put the layers that its optimizer steps. The methods are collective
    calls.
    """

    library: str
    """The engine with its version, for messages."""

    module: nn.Module
    flats: list[FlatTensor]

    gathered: Callable[..., AbstractContextManager[Any]] = _whole_already
    """Makes a parameter whole for a while; with `modify=True` what is written to it stays."""

    offload: str = ""
    """The switch of the engine by which the flat tensors lie on the CPU, whatever the model's device."""

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer step the slices; one that treats every element alike needs to be told nothing.
        Raises UnsupportedSharding, on every rank, for slices that are not what they should be.
        """
        if self.offload and isinstance(optimizer, LayerwiseOptimizer):
            raise UnsupportedSharding(
                f"LARS, LAMB and Muon do not support {self.offload} of {self.library}; turn it off in its "
                "configuration, or train with sgd or adamw"
            )
        self._verify()
        if not isinstance(optimizer, LayerwiseOptimizer):
            return
        bound = {id(shard.parameter) for flat in self.flats for shard in flat.shards}
        given = {
            name: parameter
            for name, parameter in self.module.named_parameters()
            if optimizer.layout.knows(parameter)
        }
        lost = [
            name
            for name, parameter in given.items()
            if parameter.requires_grad and id(parameter) not in bound
        ]
        if lost:
            raise UnsupportedSharding(
                f"{self.library} has no flat tensor for {lost[0]} ({len(lost)} such parameters); see "
                f"{__name__}"
            )
        optimizer.layout = FlatLayers(self.flats)

    def _verify(self) -> None:
        """Compare every slice with the weights it should hold, and count the elements of each layer over the
        ranks.
        """
        for flat in self.flats:
            held = torch.zeros(len(flat.shards), dtype=torch.int64, device=self._device)
            for row, shard in enumerate(flat.shards):
                with self.gathered(shard.parameter):
                    # A rank that finds a difference says so in its count, so that all ranks raise, and none
                    # waits for the others.
                    same = torch.equal(
                        shard.of(flat.tensor.detach()).to(self._device, shard.parameter.dtype),
                        shard.of_layer(shard.parameter.detach()),
                    )
                held[row] = shard.numel if same else -shard.shape.numel()
            if flat.process_group is not None:
                dist.all_reduce(held, group=flat.process_group)
            for shard, count in zip(flat.shards, held.tolist(), strict=True):
                if count != shard.shape.numel():
                    raise UnsupportedSharding(
                        f"{self.library} does not lay out {shard.name} as expected: its "
                        f"{shard.shape.numel()} weights were not found where "
                        f"{type(flat).__name__} says, so that a checkpoint would hold other weights. "
                        "Train with zero_stage 0"
                    )

    @property
    def _device(self) -> torch.device:
        """Where the ranks exchange."""
        return next(self.module.parameters()).device

    def gather(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], NamedStates]:
        """Return the model's state dict with fp32 master weights, and {parameter name: {state name: whole
        tensor}}, on the CPU.

        The result is on every rank and does not depend on the ZeRO stage or the number of ranks.
        """
        weights: dict[int, Tensor] = {}
        states: NamedStates = {}
        for flat in self.flats:
            for shard in flat.shards:
                weights[id(shard.parameter)] = self._whole(flat.tensor.detach(), shard, flat.process_group)
                state = optimizer.state.get(flat.tensor, {})
                tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
                states[shard.name] = {
                    k: v.cpu().clone() if k == "step" else self._whole(v, shard, flat.process_group)
                    for k, v in tensors.items()
                }
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        # Parameters keep their places among the names, and are copied once, when they are whole.
        model = {
            name: tensor if name in parameters else tensor.detach().to("cpu", copy=True)
            for name, tensor in self.module.state_dict().items()
        }
        for name, parameter in parameters.items():
            with self.gathered(parameter):
                model[name] = (
                    weights[id(parameter)]
                    if id(parameter) in weights
                    else parameter.detach().to("cpu", copy=True)
                )
        return model, {name: state for name, state in states.items() if state}

    def _whole(self, flat: Tensor, shard: Shard, process_group: dist.ProcessGroup | None) -> Tensor:
        layer = flat.new_zeros(shard.shape.numel(), device=self._device)
        shard.of_layer(layer).copy_(shard.of(flat))
        if process_group is not None:
            dist.all_reduce(layer, group=process_group)
        return layer.view(shard.shape).cpu()

    @torch.no_grad()
    def scatter(
        self, optimizer: torch.optim.Optimizer, model: dict[str, Tensor], states: NamedStates
    ) -> None:
        """Put back what `gather` returned, whatever the engine, the stage and the number of ranks then and
        now.
        """
        unknown = sorted(states.keys() - {shard.name for flat in self.flats for shard in flat.shards})
        if unknown:
            raise ValueError(
                f"the checkpoint has optimizer states of {unknown[0]} ({len(unknown)} such names), which "
                "this model does not train"
            )
        self._load_model(model)
        for flat in self.flats:
            for shard in flat.shards:
                shard.of(flat.tensor).copy_(shard.of_layer(model[shard.name]))
                for key, value in states.get(shard.name, {}).items():
                    _put(optimizer.state[flat.tensor], key, value, shard, flat.tensor)

    def _load_model(self, model: dict[str, Tensor]) -> None:
        buffers = dict(self.module.named_buffers())
        missing = sorted(
            (dict(self.module.named_parameters()).keys() | self.module.state_dict().keys()) - model.keys()
        )
        if missing:
            raise ValueError(
                f"the checkpoint lacks {missing[0]} ({len(missing)} such names); it is another model's"
            )
        for name, tensor in self.module.named_parameters():
            with self.gathered(tensor, modify=True):
                tensor.copy_(model[name])
        for name, buffer in buffers.items():
            if name in model:
                buffer.copy_(model[name])


def _put(state: dict[str, Tensor], key: str, value: Tensor, shard: Shard, flat: Tensor) -> None:
    if key == "step":
        state[key] = value.to(flat.device, copy=True)
        return
    if state.get(key) is None:
        state[key] = torch.zeros_like(flat)
    shard.of(state[key]).copy_(shard.of_layer(value))
