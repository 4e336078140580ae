"""Jobs by the model library that a recipe names. Each is a `Task`: what the loop needs to know, and no
engine.
"""

from types import ModuleType

import torch
from torch import nn

from lbtrain.data import DatasetInfo
from lbtrain.recipe import Recipe
from lbtrain.tasks.protocol import Evaluation, PrimaryMetric, Task

__all__ = ["Evaluation", "Headline", "Task", "build_model", "counted_part", "create_task", "headline_of"]


def create_task(recipe: Recipe, device: torch.device) -> Task:
    """The job of `recipe` on this rank, its data opened. Raises UserError where the data cannot be read."""
    task: Task = _job(recipe).create(recipe, device)
    return task


def primary_metric_of(recipe: Recipe) -> PrimaryMetric:
    """The metric by which runs of `recipe` are compared, known before any of them ended."""
    primary_metric: PrimaryMetric = _job(recipe).create.primary_metric
    return primary_metric


def build_model(recipe: Recipe, known: DatasetInfo) -> nn.Module:
    """The network with its initial weights, seeded by the recipe alone. Raises RecipeError for a model that
    the library does not have.
    """
    model: nn.Module = _job(recipe).build_model(recipe, known)
    return model


def counted_part(recipe: Recipe, model: nn.Module) -> tuple[nn.Module, tuple[int, int, int]]:
    """The part of `model` whose activations can be counted without data, and (channels, height, width) of one
    image as it sees it.
    """
    part: tuple[nn.Module, tuple[int, int, int]] = _job(recipe).counted_part(recipe, model)
    return part


def _job(recipe: Recipe) -> ModuleType:
    """The module of the recipe's kind of job, imported when it is asked for."""
    if recipe.model.library == "timm":
        from lbtrain.tasks import classification

        return classification
    if recipe.model.library == "torchvision":
        from lbtrain.tasks import detection

        return detection
    from lbtrain.tasks import detectron2_models

    return detectron2_models
