"""A run directory as the landscape's tools see it: recipe, rows, and what a checkpoint holds."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lbtrain.data import dataset_info
from lbtrain.errors import RecipeError
from lbtrain.launch.world import detect_world, start_process_group
from lbtrain.nn import convert_to_ghost_batch_norm
from lbtrain.recipe import Recipe
from lbtrain.runs.checkpoint_files import WholeCheckpoint, checkpoint_paths, matching_checksum, newest_whole
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.loading import LoadedCheckpoint, read_checkpoint
from lbtrain.runs.rows import read_rows
from lbtrain.tasks import build_model
from lbtrain.techniques.weight_average import KEY

from ..kit.command import escaped
from ..study.arm import ORIGIN

Answer = TypeVar("Answer")


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
    def whole(self) -> WholeCheckpoint:
        """`file`, or the newest good one, with a line for each damaged one that is newer: its place and its
        checksum, without what it holds. Raises RecipeError if there is none, or `file` is damaged.
        """
        found = _whole(self.file) if self.file else newest_whole(self.checkpoints)
        if found is None:
            raise RecipeError(f"{self.path} has no checkpoint yet")
        if detect_world().rank == 0:
            for line in found.skipped:
                print(line, file=sys.stderr)
        return found

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def step(self) -> int:
        """Of its checkpoint."""
        return int(self.whole.path.stem.removeprefix("step_"))

    def read_checkpoint(self) -> LoadedCheckpoint:
        """The checkpoint, on the CPU, with weights and optimizer states: for who needs it once. Raises
        RecipeError as `whole`.
        """
        return read_checkpoint(self.whole.path, self.whole.skipped, self.whole.checksum)

    @cached_property
    def checkpoint(self) -> LoadedCheckpoint:
        """The same, kept."""
        return self.read_checkpoint()

    def at_checkpoints(self) -> Iterator["Run"]:
        """This run at every checkpoint that it kept. Raises RecipeError for fewer than two."""
        files = checkpoint_paths(self.checkpoints)
        if len(files) < 2:
            raise RecipeError(
                f"{self.path} kept {len(files)} checkpoint: train with checkpoint.every=1ep "
                "checkpoint.keep=1000"
            )
        return (replace(self, file=file) for file in files)

    @cached_property
    def image_size(self) -> int | None:
        """Pixels a side of the images that its checkpoint was trained on last; None: as in evaluations."""
        if not self.recipe.schedule.image_sizes:
            return None
        seen = self.read_checkpoint().progress.examples
        phases = RunDirectory(self.path).read("plan.json", {"phases": list})["phases"]
        size: int | None = [each["image_size"] for each in phases if each["start"] < seen][-1]
        return size

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


def _whole(file: Path) -> WholeCheckpoint:
    if checksum := matching_checksum(file):
        return WholeCheckpoint(file, checksum, [])
    raise RecipeError(
        f"{file} is damaged, or its checksum file is not beside it. Remove it to go on with the others."
    )
