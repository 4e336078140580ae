"""What LARS and LAMB share: the order of one step, from layer norms to ratios to weights, on whole layers and
on slices of them.

The cases that the papers leave open have one answer here, the same for both optimizers and under every
engine:

    layer                what happens
    weights are zero     ratio 1: it steps like a layer without trust ratio (the papers' ratio, 0, would keep
                         it at zero)
    without gradient     ratio 0: nothing is added, no decay either (LAMB's formula would shrink it by lr a
                         step); momenta decay as with a zero gradient. `grad is None` and a gradient of zeros
                         are the same case, since ZeRO turns the one into the other. To freeze a layer, set
                         requires_grad_(False)
    weight_decay = 0     takes its trust ratio all the same
    lr = 0               weights stay; momenta and step count go on (LARS with the rate inside the buffer
                         coasts on what is in it)

In groups with "use_trust_ratio" false the ratio is 1 (the two rules above hold where they are decayed).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .layout import Layout, Slice, UnsupportedSharding, WholeLayers, sum_over_ranks
from .norms import squared_norms

# Elements of whole layers that are stepped together. On a CPU what the norms have read is then still in the
# cache when the update reads it. Elsewhere starting the kernels of a round takes longer than their work, so
# that a round is as large as its temporary tensors (64 MiB each in fp32) allow.
CPU_ROUND, ROUND = 1 << 20, 1 << 24

_WHOLE = "holds_whole_layers"


@dataclass
class Job:
    """Slices of one parameter group, and the direction in which each will be stepped."""

    group: dict[str, Any]
    slices: list[Slice]
    directions: list[Tensor] = field(default_factory=list)

    @property
    def weights(self) -> list[Tensor]:
        return [part.weight for part in self.slices]

    @property
    def gradients(self) -> list[Tensor]:
        return [part.gradient for part in self.slices]

    def states(self, name: str) -> list[Tensor]:
        return [part.state[name] for part in self.slices]

    @property
    def needs_norms(self) -> bool:
        return bool(self.group["use_trust_ratio"] or self.group["weight_decay"])

    @property
    def sharded(self) -> bool:
        return any(part.process_group is not None for part in self.slices)

    def split(self) -> "Iterator[Job]":
        """Yield jobs of about a round's elements."""
        enough = CPU_ROUND if self.slices[0].weight.device.type == "cpu" else ROUND
        start = numel = 0
        for end, part in enumerate(self.slices, 1):
            numel += part.weight.numel()
            if numel >= enough or end == len(self.slices):
                yield Job(self.group, self.slices[start:end])
                start, numel = end, 0


class LayerwiseOptimizer(torch.optim.Optimizer):
    """A torch optimizer whose step on a layer depends on that layer's norms. Subclasses say how in the four
    methods at the end.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]):
        self.layout: Layout = WholeLayers()
        self._forget_last_step()
        super().__init__(params, {"use_trust_ratio": True, **defaults})

    def _forget_last_step(self) -> None:
        # Of the last step, by the first layer of each round: layer names and ratios [layers], left on their
        # device until someone asks.
        self.last_ratios: dict[str, tuple[list[str], Tensor]] = {}
        self._scratch: dict[tuple[torch.dtype, int], Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """See torch. Raises UnsupportedSharding where an engine has taken the parameters out of the groups
        (DeepSpeed does, between the steps of ZeRO-3): the states could then not be told apart.
        """
        held = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        if any(id(parameter) not in held for parameter in self.state):
            raise UnsupportedSharding(
                "the engine has taken the parameters out of this optimizer's groups, so it has no state_dict "
                "of its own. Save and load by the engine (DeepSpeed: engine.save_checkpoint), or by "
                "lbtrain.optim.deepspeed_shards(engine).gather(optimizer)"
            )
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle or a copy consists of. It says whether the tensors are layers, because a layout
        cannot be copied: it refers to the engine's tensors and process groups.
        """
        return {**super().__getstate__(), _WHOLE: self._holds_whole_layers()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called for a copy and by `load_state_dict`, which keeps the tensors and therefore the layout. A
        copy of an optimizer that held shards has none: it takes no step until it is bound.
        """
        whole = state.get(_WHOLE)
        super().__setstate__({name: value for name, value in state.items() if name != _WHOLE})
        self._forget_last_step()
        if whole is not None or not hasattr(self, "layout"):
            self.layout = WholeLayers()
        if whole:
            for group in self.param_groups:
                self._register(group)

    def _holds_whole_layers(self) -> bool:
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        return isinstance(self.layout, WholeLayers) and all(map(self.layout.whole, parameters))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._register(self.param_groups[-1])

    def _register(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            self.layout.register(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step at each group's current `lr`. Under sharding this is a collective call: every rank
        must make it.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        jobs = [Job(group, self._slices(group, index)) for index, group in enumerate(self.param_groups)]
        jobs = [job for job in jobs if job.slices]
        for job in jobs:
            self._advance(job)
        # The norms of sharded layers travel together, in one all-reduce; whole layers need not wait for each
        # other.
        together = [job for job in jobs if job.sharded]
        if together:
            self._round(together)
        for job in jobs:
            if not job.sharded:
                for piece in job.split():
                    self._round([piece])
        return loss

    def _slices(self, group: dict[str, Any], index: int) -> list[Slice]:
        names = group.get("param_names") or [
            f"param_groups.{index}.{place}" for place in range(len(group["params"]))
        ]
        slices = []
        for place, parameter in enumerate(group["params"]):
            if parameter.grad is None and not parameter.requires_grad:
                continue
            self.layout.check(parameter)
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if gradient.is_sparse:
                raise ValueError(
                    f"{names[place]} has a sparse gradient; layer norms need dense ones (Embedding: "
                    "sparse=False)"
                )
            state = self.state[parameter]
            self._fill_state(state, parameter, group)
            slices += self.layout.slices(parameter, names[place], gradient, state)
        return slices

    def _round(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._direct(job)
        measured = [job for job in jobs if job.needs_norms]
        # Without norms too the ratios lie beside the weights: a multi-tensor operation takes no scalars of
        # another device.
        squares = (
            self._squares(measured)
            if measured
            else torch.empty(0, dtype=torch.float64, device=jobs[0].weights[0].device)
        )
        for job in jobs:
            ratios = squares.new_ones(len(job.slices))
            if job.needs_norms:
                mine, squares = squares.tensor_split([len(job.slices)])
                ratios = self._ratios(job.group, mine)
            if job.group["use_trust_ratio"]:
                self.last_ratios[job.slices[0].name] = ([part.name for part in job.slices], ratios)
            self._apply(job, ratios)

    def _squares(self, jobs: list[Job]) -> Tensor:
        squares = torch.cat(
            [torch.stack([squared_norms(tensors) for tensors in self._measured(job)], dim=1) for job in jobs]
        )
        return sum_over_ranks(squares, [part for job in jobs for part in job.slices])

    def _fill_state(self, state: dict[str, Tensor], parameter: Tensor, group: dict[str, Any]) -> None:
        """Make the state that `parameter` lacks."""
        raise NotImplementedError

    def _advance(self, job: Job) -> None:
        """Count the step, once for each group."""

    def _direct(self, job: Job) -> None:
        """Fill `job.directions`, and update the state that they depend on."""
        raise NotImplementedError

    def _measured(self, job: Job) -> tuple[list[Tensor], ...]:
        """Return the lists of tensors whose norms the ratios depend on."""
        raise NotImplementedError

    def _ratios(self, group: dict[str, Any], squares: Tensor) -> Tensor:
        """Return the trust ratio of each layer, [layers], from the squared norms of the whole layers,
        [layers, measured].
        """
        raise NotImplementedError

    def _apply(self, job: Job, ratios: Tensor) -> None:
        """Step the weights along `job.directions` with these ratios."""
        raise NotImplementedError


def settle(ratios: Tensor, weights: Tensor, gradients: Tensor) -> Tensor:
    """Replace the ratios of layers whose weights (1) or whose gradient (0) are zero; all arguments are
    [layers].
    """
    return torch.where(gradients == 0, 0.0, torch.where(weights == 0, 1.0, ratios))


def require(
    name: str, value: float, *, at_least: float, below: float = float("inf"), strictly: bool = False
) -> None:
    """Reject a hyper-parameter out of range with its value and the range."""
    if not (at_least < value if strictly else at_least <= value) or not value < below:
        lower = "above" if strictly else "at least"
        upper = "" if below == float("inf") else f" and below {below:g}"
        raise ValueError(f"{name}={value} is out of range; it must be {lower} {at_least:g}{upper}")
