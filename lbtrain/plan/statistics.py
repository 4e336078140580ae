"""A model in numbers, counted on the meta device: parameters by what the optimizer does to them, and the
memory of a rank.
"""

from dataclasses import dataclass

import torch

from lbtrain import optim
from lbtrain.data import DatasetInfo
from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe
from lbtrain.tasks import build_model, counted_part


@dataclass(frozen=True)
class ModelStatistics:
    """A model in numbers. Parameters by what the optimizer does to them; bytes kept for the backward pass of
    one image in fp32.
    """

    parameters: int
    not_decayed: int
    without_trust_ratio: int
    batch_norm_layers: int
    activation_bytes_per_image: int


def model_statistics(recipe: Recipe, dataset: DatasetInfo) -> ModelStatistics:
    """Counts the model on the meta device: no memory, no data, no GPU."""
    with torch.device("meta"):
        model = build_model(recipe, dataset)
    try:
        roles = optim.parameter_roles(
            model, no_decay=recipe.optimizer.no_decay, no_trust_ratio=recipe.optimizer.no_trust_ratio
        )
    except ValueError as error:
        raise RecipeError(f"optimizer.no_decay or optimizer.no_trust_ratio: {error}") from error
    return ModelStatistics(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        not_decayed=sum(role.numel for role in roles if not role.decay),
        without_trust_ratio=sum(role.numel for role in roles if not role.use_trust_ratio),
        batch_norm_layers=sum(
            isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()
        ),
        activation_bytes_per_image=_activation_bytes(*counted_part(recipe, model)),
    )


def _activation_bytes(model: torch.nn.Module, shape: tuple[int, int, int]) -> int:
    """Bytes that autograd keeps for the backward pass of one image, parameters left out, by a forward pass on
    the meta device.
    """
    images = 2  # batch norm takes no single image
    kept = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    total = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in kept:
            kept.add(storage._cdata)
            held.append(tensor)
            total += storage.nbytes()
        return tensor

    held: list[torch.Tensor] = []  # keeps every storage alive, so that no address is seen twice
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.empty(images, *shape, device="meta"))
    return total // images


def memory_estimate(
    recipe: Recipe, statistics: ModelStatistics, micro_batch_size: int, world_size: int, engine: str
) -> dict[str, int]:
    """Bytes per rank: fp32 weights, gradients and states (divided by what ZeRO shards), their average,
    activations in the run's precision.

    Leaves out the framework's own memory, fragmentation and communication buffers. ZeRO stages: Rajbhandari
    et al. 2020, section 5.
    """
    stage = recipe.zero_stage_under(engine)
    tensor = 4 * statistics.parameters
    states = (
        tensor * {"sgd": 1 if recipe.optimizer.momentum else 0, "lars": 1, "lamb": 2}[recipe.optimizer.name]
    )
    width = 1 if recipe.precision == "fp32" else 2
    return {
        "weights": tensor // (world_size if stage >= 3 else 1)
        + (tensor // world_size if 0 < stage < 3 else 0),
        "gradients": tensor // (world_size if stage >= 2 else 1),
        "optimizer_states": states // (world_size if stage >= 1 else 1),
        "average": tensor if recipe.ema.decay else 0,
        "activations": statistics.activation_bytes_per_image * micro_batch_size // width,
    }
