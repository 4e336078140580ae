"""A run directory as the landscape's tools see it: recipe, rows, a checkpoint's weights, and the training
loss as a function of them.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lbtrain.analysis import Objective
from lbtrain.analysis.objective import BatchNormMode
from lbtrain.data import dataset_info
from lbtrain.errors import RecipeError
from lbtrain.launch.world import detect_world, start_process_group
from lbtrain.nn import convert_to_ghost_batch_norm
from lbtrain.recipe import Recipe
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.checkpoint_files import checkpoint_paths
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.loading import LoadedCheckpoint
from lbtrain.runs.rows import read_rows
from lbtrain.tasks import build_model, create_task
from lbtrain.techniques.weight_average import KEY

from ..kit.command import escaped
from ..study.arm import ORIGIN

Answer = TypeVar("Answer")

MICRO_BATCH = 64
"""Images per forward pass by default: a Hessian-vector product keeps about twice the activations
of a training step.
"""


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders as far as they differ."""
    whole = [folder.resolve() for folder in folders]
    above = Path(os.path.commonpath([folder.parent for folder in whole]))
    return [escaped(str(folder.relative_to(above))) for folder in whole]


@dataclass(frozen=True)
class DistContext:
    """This process among those that measure together (torchrun starts several; alone it is one)."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def join(cls) -> "DistContext":
        world = detect_world()
        return cls(world.rank, world.world_size, start_process_group(world))

    def mean(self, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(total)
            total /= self.world_size
        return total

    def from_rank_0(self, find: Callable[[], Answer]) -> Answer:
        """What `find` finds on rank 0, where alone it is called; picklable."""
        found = [find() if self.rank == 0 else None]
        if self.world_size > 1:
            dist.broadcast_object_list(found)
        return cast(Answer, found[0])


@dataclass(frozen=True)
class Run:
    """The run in `path`, read piece by piece. Raises RecipeError for a folder that holds no run."""

    path: Path
    file: Path | None = None
    """Its checkpoint; None for the newest good one."""

    def __post_init__(self) -> None:
        for name in ("recipe.yaml", "metrics.jsonl"):
            if not (self.path / name).is_file():
                raise RecipeError(f"{self.path} is not a run directory: it has no {name}")

    @cached_property
    def recipe(self) -> Recipe:
        return RunDirectory(self.path).recipe()

    @cached_property
    def plan(self) -> dict[str, Any]:
        numbers = dict.fromkeys(("batch_size", "bn_batch_size", "train_examples", "world_size"), int)
        return RunDirectory(self.path).read("plan.json", {**numbers, "engine": str})

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Of the finished run; empty before."""
        return (
            RunDirectory(self.path).read("summary.json", ORIGIN)
            if (self.path / "summary.json").exists()
            else {}
        )

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Of metrics.jsonl, in the order of the steps."""
        return [row for row in self._rows if row["kind"] == kind]

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        rows, note = read_rows(self.path / "metrics.jsonl")
        if note:
            print(note, file=sys.stderr)
        return rows

    @property
    def folder(self) -> Path:
        """Where measurements of this run are cached."""
        return self.path / "landscape"

    @cached_property
    def checkpoint(self) -> LoadedCheckpoint:
        """`file`, or the newest good one, on the CPU, with a line for each damaged one that is newer. Raises
        RecipeError if there is none, or `file` is damaged.
        """
        kept = Checkpoints(self.path, keep=1)
        found = kept.load(self.file) if self.file else kept.newest()
        if found is None:
            raise RecipeError(f"{self.path} has no checkpoint yet")
        if detect_world().rank == 0:
            for line in found.skipped:
                print(line, file=sys.stderr)
        return found

    def at_checkpoints(self) -> list["Run"]:
        """This run at every checkpoint that it kept. Raises RecipeError for fewer than two."""
        files = checkpoint_paths(self.path / "checkpoints")
        if len(files) < 2:
            raise RecipeError(
                f"{self.path} kept {len(files)} checkpoint: train with checkpoint.every=1ep "
                "checkpoint.keep=1000"
            )
        return [replace(self, file=file) for file in files]

    @property
    def epoch(self) -> float:
        """Of its checkpoint."""
        return self.checkpoint.progress.examples / self.plan["train_examples"]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The checkpoint's state dict."""
        return dict(self.checkpoint.state["model"])

    @property
    def average(self) -> dict[str, Tensor]:
        """The average of the weights in the checkpoint, as a state dict; empty where the run keeps none."""
        return dict(self.checkpoint.extras.get(KEY, {}))

    def model(self, weights: dict[str, Tensor], device: torch.device) -> nn.Module:
        """The run's network with these weights, in its ghost batches."""
        model = build_model(self.recipe, dataset_info(self.recipe.data))
        model.load_state_dict(weights)
        return convert_to_ghost_batch_norm(model, self.plan["bn_batch_size"]).to(device)

    def objective(self, context: DistContext, options: "LossOptions") -> Objective:
        """The training loss at the checkpoint, over the first examples of the run's own stream, shared out
        over the ranks.

        `options` fit the run (`LossOptions.fitting`). Raises RecipeError where the examples cannot be shared
        out, and for a detector.
        """
        if self.recipe.model.library != "timm":
            raise RecipeError(
                f"{self.path} is a run of model.library={self.recipe.model.library}, whose loss exists in "
                "training mode only and jumps "
                "where another proposal is taken: sharpness, hessian and compare are for classifiers (timm)"
            )
        task = create_task(self.recipe, context.device)
        count = options.batches(context.world_size)
        stream = task.batches(
            start=0, micro_batch_size=options.micro_batch, rank=context.rank, world_size=context.world_size
        )
        batches = list(islice(stream, count))

        def loss(model: Callable[..., Any], batch: Any) -> Tensor:
            return task.loss(model, batch).total  # type: ignore[arg-type]

        model = self.model(self.weights, context.device)
        return Objective(model, loss, batches, batch_norm=options.batch_norm, mean=context.mean)


@dataclass(frozen=True)
class LossOptions:
    """Over which examples the loss is taken, and how batch norm behaves meanwhile."""

    examples: int
    micro_batch: int
    """Images per forward pass; 0: MICRO_BATCH, or more where the ghost batches of a run need it."""
    batch_norm: BatchNormMode

    @classmethod
    def of(cls, options: argparse.Namespace) -> "LossOptions":
        return cls(options.examples, options.micro_batch, options.batch_norm)

    def fitting(self, run: Run) -> "LossOptions":
        """With a micro-batch that holds whole ghost batches of `run`. Raises RecipeError where it was given
        and does not.
        """
        ghost = run.plan["bn_batch_size"] if self.batch_norm == "batch" else 1
        whole = math.ceil((self.micro_batch or MICRO_BATCH) / ghost) * ghost
        if self.micro_batch and self.micro_batch != whole:
            raise RecipeError(
                f"--micro-batch {self.micro_batch} holds no whole number of the ghost batches of {ghost} "
                f"images in {run.path}: --micro-batch {whole} does, and --batch-norm eval needs none"
            )
        return replace(self, micro_batch=whole)

    def batches(self, world_size: int) -> int:
        """Micro-batches of each rank. Raises RecipeError where the examples are no whole number of them."""
        together = self.micro_batch * world_size
        if self.examples % together:
            raise RecipeError(
                f"--examples {self.examples} is not a whole number of micro-batches of {self.micro_batch} "
                f"on each of {world_size} ranks: "
                f"use --examples {math.ceil(self.examples / together) * together}"
            )
        return self.examples // together
