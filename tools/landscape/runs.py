"""A run directory as the landscape's tools see it: recipe, rows, a checkpoint's weights, and the training loss as a function of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import Tensor, nn

from lbtrain.analysis import Objective
from lbtrain.analysis.objective import BatchNormMode
from lbtrain.checkpoint import Checkpoints
from lbtrain.cluster.launch import detect_world, start_process_group
from lbtrain.data import facts
from lbtrain.errors import RecipeError
from lbtrain.nn import convert_to_ghost_batch_norm
from lbtrain.recipe import Recipe
from lbtrain.tasks import build_model, create_task


@dataclass(frozen=True)
class Here:
    """This process among those that measure together (torchrun starts several; alone it is one)."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def join(cls) -> "Here":
        world = detect_world()
        return cls(world.rank, world.world_size, start_process_group(world))

    def mean(self, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(total)
            total /= self.world_size
        return total


@dataclass(frozen=True)
class Run:
    path: Path

    def __post_init__(self) -> None:
        for name in ("recipe.yaml", "metrics.jsonl"):
            if not (self.path / name).is_file():
                raise RecipeError(f"{self.path} is not a run directory: it has no {name}")

    @cached_property
    def recipe(self) -> Recipe:
        tree: Any = OmegaConf.to_container(OmegaConf.load(self.path / "recipe.yaml"))
        return Recipe().vary(**tree)

    @cached_property
    def plan(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "plan.json").read_text()))

    def rows(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.path / "metrics.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if row["kind"] == kind]

    @property
    def folder(self) -> Path:
        """Where what is measured of this run is kept."""
        return self.path / "landscape"

    @cached_property
    def weights(self) -> tuple[dict[str, Tensor], int]:
        """The newest good checkpoint's state dict, on the CPU, and its step."""
        found = Checkpoints(self.path, keep=1).newest()
        if found is None:
            raise RecipeError(f"{self.path} has no checkpoint yet")
        return found.state["model"], found.progress.step

    def initial_weights(self) -> dict[str, Tensor]:
        """What the run started from: the recipe's seed says it."""
        return build_model(self.recipe, facts(self.recipe.data)).state_dict()

    def model(self, weights: dict[str, Tensor], device: torch.device) -> nn.Module:
        model = build_model(self.recipe, facts(self.recipe.data))
        model.load_state_dict(weights)
        return convert_to_ghost_batch_norm(model, self.recipe.bn_batch_size).to(device)

    def objective(self, here: Here, options: "LossOptions", *, keep_graphs: bool = False) -> Objective:
        """The training loss at the checkpoint, over the first examples of the run's own stream, shared out over the ranks."""
        if self.recipe.model.library != "timm":
            raise RecipeError(
                f"{self.path} is a run of model.library={self.recipe.model.library}, whose loss exists in training mode only and jumps "
                "where another proposal is taken: sharpness, hessian and compare are for classifiers (timm)"
            )
        task = create_task(self.recipe, here.device)
        count = options.batches(here.world_size)
        stream = task.batches(start=0, micro_batch_size=options.micro_batch, rank=here.rank, world_size=here.world_size)
        batches = list(islice(stream, count))

        def loss(model: Callable[..., Any], batch: Any) -> Tensor:
            losses: list[Tensor] = list(task.loss(model, batch).values())  # type: ignore[arg-type]
            return torch.stack(losses).sum()

        model = self.model(self.weights[0], here.device)
        return Objective(model, loss, batches, batch_norm=options.batch_norm, mean=here.mean, keep_graphs=keep_graphs)


@dataclass(frozen=True)
class LossOptions:
    """Over which examples the loss is taken, and how batch norm behaves meanwhile."""

    examples: int
    micro_batch: int
    batch_norm: BatchNormMode

    def batches(self, world_size: int) -> int:
        if self.examples % (self.micro_batch * world_size):
            raise RecipeError(
                f"--examples {self.examples} is not a whole number of micro-batches of {self.micro_batch} on each of {world_size} ranks"
            )
        return self.examples // (self.micro_batch * world_size)
