"""One run of a model under one batch split, by lbtrain's plan, engine and ghost batch norm, and
what it leaves.
"""

import argparse
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.recipe.values import from_text


class Split(NamedTuple):
    """One way to make a step."""

    name: str
    world_size: int
    micro_batch_size: int


@dataclass(frozen=True)
class Question:
    """What to compare; see --help."""

    model: str
    args: str
    world: int
    steps: int
    batch_size: int
    bn_batch_size: int
    image_size: int
    optimizer: str
    lr: float
    tolerance: float
    rows: int
    precision: str = "fp64"
    engine: str = "ddp"
    zero_stage: int = 0

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Question":
        asked = vars(options)
        if asked["tolerance"] is None:
            asked["tolerance"] = 1e-8 if asked["precision"] == "fp64" else math.inf
        return cls(**{field: asked[field] for field in cls.__dataclass_fields__ if field in asked})

    @property
    def dtype(self) -> torch.dtype:
        return {"fp64": torch.float64, "fp32": torch.float32}[self.precision]

    def recipe(self) -> Recipe:
        """Raises RecipeError."""
        source, _, name = self.model.partition(":")
        if source != "timm":
            raise RecipeError(f"{self.model}: write timm:NAME with a model of timm")
        return Recipe().vary(
            batch_size=self.batch_size,
            bn_batch_size=self.bn_batch_size,
            duration=f"{self.steps}it",
            model=dict(name=name, args=from_text(self.args, dict[str, Any], "--args")),
            data=dict(name="synthetic", image_size=self.image_size),
            optimizer=dict(name=self.optimizer),
            engine=self.engine,
            deepspeed=dict(zero_stage=self.zero_stage),
        )

    def splits(self) -> list[Split]:
        """The first is the reference."""
        whole, ghost, world = self.batch_size, self.bn_batch_size, self.world
        splits = [Split("1 rank", 1, whole), Split(f"1 rank, {whole // ghost} micro-batches", 1, ghost)]
        if world > 1:
            splits.append(Split(f"{world} ranks", world, whole // world))
            splits.append(Split(f"{world} ranks, batch norm over ranks", world, ghost // world))
        return splits


@dataclass
class Trace:
    """What a run left: outputs of the first step by layer, in the order of the images of rank 0, weights and
    running statistics after the last.
    """

    outputs: dict[str, Tensor]
    state: dict[str, Tensor]
    losses: list[float]
    """Of every step, over the whole batch."""


def trained(question: Question, split: Split) -> Trace:
    """Trains in the process group that this process is in. Collective."""
    from lbtrain.nn import regroup_ghost_batches, without_random_layers
    from lbtrain.plan.plan import make_plan
    from lbtrain.run import build_bare_model, build_engine

    recipe = question.recipe().vary(micro_batch_size=split.micro_batch_size)
    plan = make_plan(recipe, split.world_size, engine=question.engine)
    model = (
        without_random_layers(build_bare_model(recipe, plan, torch.device("cpu"))).to(question.dtype).train()
    )
    engine, _ = build_engine(plan, model, torch.device("cpu"))
    regroup_ghost_batches(engine.model, plan.split.ranks_per_ghost, plan.phases[0].bn_momentum)
    recorder = Recorder(model, split.micro_batch_size)
    losses = []
    for step in range(question.steps):
        images, labels = _batch(question, step)
        total = torch.zeros((), dtype=question.dtype)
        for number in range(engine.accumulation):
            first = (number * split.world_size + dist.get_rank()) * split.micro_batch_size
            some = slice(first, first + split.micro_batch_size)
            recorder.start_micro_step()
            loss = F.cross_entropy(engine.model(images[some]), labels[some])
            engine.backward(loss)
            total += loss.detach() / engine.accumulation
        engine.step(question.lr)
        losses.append(float(engine.mean(total)))
        recorder.stop()
    state = engine.save()  # on rank 0
    return Trace(recorder.outputs(), state["model"] if state else {}, losses)


def _batch(question: Question, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    shape = (question.batch_size, 3, question.image_size, question.image_size)
    images = torch.randn(shape, generator=generator, dtype=question.dtype)
    return images, torch.randint(10, (question.batch_size,), generator=generator)


class Recorder:
    """Keeps the first output of every layer without children in every micro-step, until it is stopped."""

    def __init__(self, model: nn.Module, micro_batch_size: int):
        self._size = micro_batch_size
        self._parts: dict[str, list[Tensor]] = {}
        self._called: set[str] = set()
        self._handles = [
            module.register_forward_hook(lambda _, __, out, name=name: self._keep(name, out))
            for name, module in model.named_modules()
            if not list(module.children())
        ]

    def _keep(self, name: str, output: Any) -> None:
        first = name not in self._called  # pooling, say, may be one layer at several places
        self._called.add(name)
        if first and isinstance(output, Tensor) and output.dim() and output.shape[0] == self._size:
            self._parts.setdefault(name, []).append(output.detach().clone())

    def start_micro_step(self) -> None:
        self._called.clear()

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()

    def outputs(self) -> dict[str, Tensor]:
        """By layer, one row an image, in the order of this rank's images."""
        return {name: torch.cat(parts) for name, parts in self._parts.items()}


def without_equal_infinities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both with 0 where they are the same infinity: bounds of clamps, say, whose difference is NaN."""
    same = a.isinf() & (a == b)
    return a.masked_fill(same, 0), b.masked_fill(same, 0)
