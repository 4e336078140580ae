"""Jobs by the model library that a recipe names. Each is a `Task`: what the loop needs to know, and no
engine.
"""

from types import ModuleType

import torch
from torch import Tensor, nn

from lbtrain.data import DatasetInfo
from lbtrain.recipe import Recipe
from lbtrain.tasks.protocol import Evaluation, Losses, PrimaryMetric, Report, Task, primary_metric_of

__all__ = [
    "Evaluation",
    "Losses",
    "PrimaryMetric",
    "Report",
    "Task",
    "build_model",
    "create_task",
    "outputs_of",
    "primary_metric_of",
]


def create_task(recipe: Recipe, device: torch.device) -> Task:
    """The job of `recipe` on this rank, its data opened. Raises UserError where the data cannot be read."""
    task: Task = _job(recipe).create(recipe, device)
    return task


def build_model(recipe: Recipe, known: DatasetInfo) -> nn.Module:
    """The network with its initial weights: random ones seeded by the recipe alone, or those of
    `model.weights`. On the meta device, where a plan is made, no file is read. Raises RecipeError for a model
    that the library does not have.
    """
    from lbtrain.tasks.freezing import freeze_parameters

    model: nn.Module = _job(recipe).build_model(recipe, known)
    freeze_parameters(model, recipe.model.freeze)
    return model


def outputs_of(recipe: Recipe, model: nn.Module, num_images: int) -> tuple[nn.Module, list[Tensor]]:
    """The part of `model` that can be called without data, and what the loss depends on of its outputs for so
    many images, on the meta device. Raises RecipeError for a model that does not take them.
    """
    outputs: tuple[nn.Module, list[Tensor]] = _job(recipe).outputs_of(recipe, model, num_images)
    return outputs


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
