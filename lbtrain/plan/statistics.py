"""A model in numbers, counted on the meta device: parameters by what the optimizer does to them, and the
memory of a rank.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lbtrain import optim
from lbtrain.data import DatasetInfo
from lbtrain.errors import RecipeError
from lbtrain.nn import check_batch_statistics, check_unwrapped, drop_path_layers, random_layers
from lbtrain.recipe import Recipe
from lbtrain.tasks import build_model, outputs_of
from lbtrain.tasks.freezing import frozen_counts


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
    batch_norm_positions: int = 0
    """The fewest positions of an image that a batch-norm layer sees; 0 without batch norm."""
    random_layers: int = 0
    """Layers whose random numbers belong to a micro-batch: dropout, but not drop path."""
    without_gradient: tuple[str, ...] = ()
    """Parameters on which the loss does not depend. They are not trained, under any engine."""
    muon: int = 0
    """How many of the parameters are Muon's; it leaves the rest to AdamW."""
    frozen: int = 0
    """Parameters that the recipe does not train, those of frozen batch norm included."""
    frozen_norms: int = 0
    untrained: int = 0
    """How many of the parameters are not trained, for whatever reason: they have neither gradient nor
    state.
    """
    resized: dict[int, int] = field(default_factory=dict)
    """What activation_bytes_per_image is at the other image sizes of schedule.image_sizes."""

    def notes(self) -> list[str]:
        """What a person should know of the model before it is trained."""
        notes = []
        if self.frozen:
            notes.append(
                f"model.freeze: {self.frozen:,} parameters are not trained, and {self.frozen_norms} "
                "batch-norm layers keep their stored statistics."
            )
        if self.random_layers:
            notes.append(
                f"Dropout in {self.random_layers} layers draws by micro-batch: runs agree over "
                "engines and restarts, not over batch splits."
            )
        if self.without_gradient:
            names, count = ", ".join(self.without_gradient[:3]), len(self.without_gradient)
            more = f" and {count - 3} more" if count > 3 else ""
            notes.append(f"Parameters that get no gradient are not trained: {names}{more}.")
        return notes


def model_statistics(recipe: Recipe, dataset: DatasetInfo) -> ModelStatistics:
    """Counts the model on the meta device: no memory, no data, no GPU. Raises RecipeError for a model that
    cannot be trained here.
    """
    with torch.device("meta"):
        model = build_model(recipe, dataset)
    try:
        check_unwrapped(model)
        batch_norm_layers = check_batch_statistics(model)
    except ValueError as error:
        raise RecipeError(f"model.name={recipe.model.name}: {error}") from error
    frozen, frozen_norms = frozen_counts(model) if recipe.model.freeze else (0, 0)
    positions: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: positions.append(inputs[0][0, 0].numel()))
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    activation_bytes, without_gradient = _traced(recipe, model)
    resized = {
        point.pixels: _traced(recipe.vary(data=dict(image_size=point.pixels)), model)[0]
        for point in recipe.schedule.image_sizes
    }
    for hook in hooks:
        hook.remove()
    freeze(model, without_gradient)
    try:
        roles = optim.parameter_roles(
            model,
            no_decay=recipe.optimizer.no_decay,
            no_trust_ratio=recipe.optimizer.no_trust_ratio,
            no_muon=recipe.optimizer.no_muon if recipe.optimizer.name == "muon" else None,
        )
        optim.layer_lr_scales(model, recipe.optimizer.layer_decay, recipe.optimizer.head_lr_ratio)
    except ValueError as error:
        raise RecipeError(f"The optimizer's filters do not fit the model: {error}") from error
    return ModelStatistics(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        not_decayed=sum(role.numel for role in roles if not role.decay),
        without_trust_ratio=sum(role.numel for role in roles if not role.use_trust_ratio),
        muon=sum(role.numel for role in roles if role.use_muon),
        batch_norm_layers=batch_norm_layers,
        batch_norm_positions=min(positions, default=0),
        random_layers=len(random_layers(model)) - sum(each.drop_prob > 0 for each in drop_path_layers(model)),
        activation_bytes_per_image=activation_bytes,
        without_gradient=without_gradient,
        frozen=frozen,
        frozen_norms=frozen_norms,
        untrained=sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad),
        resized=resized,
    )


def freeze(model: nn.Module, names: tuple[str, ...]) -> None:
    """Does not train these parameters. torch's optimizers skip a parameter without gradient; ZeRO would decay
    it and DistributedDataParallel would wait for it.
    """
    for name in names:
        model.get_parameter(name).requires_grad_(False)


def _traced(recipe: Recipe, model: nn.Module) -> tuple[int, tuple[str, ...]]:
    """Of a forward pass on the meta device: the bytes that autograd keeps for the backward pass of one image,
    parameters left out, and the names of the parameters that get no gradient.
    """
    images = 2  # batch norm takes no single image
    kept = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in kept:
            kept.add(storage._cdata)
            held.append(tensor)
            total += storage.nbytes()
        return tensor

    held: list[Tensor] = []  # keeps every storage alive, so that no address is seen twice
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        part, outputs = outputs_of(recipe, model, images)
    without = {id(parameter) for parameter in part.parameters()} - reached_parameters(outputs)
    names = [name for name, each in model.named_parameters() if each.requires_grad and id(each) in without]
    return total // images, tuple(names)


def reached_parameters(outputs: list[Tensor]) -> set[int]:
    """Identities of the parameters in the graph that autograd has made of `outputs`. 0.2 ms for ResNet-50."""
    reached: set[int] = set()
    seen: set[Any] = set()
    waiting = [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        reached.add(id(getattr(node, "variable", None)))
        waiting += [following for following, _ in node.next_functions]
    return reached


def memory_estimate(
    recipe: Recipe,
    statistics: ModelStatistics,
    micro_batch_size: int,
    world_size: int,
    engine: str,
    image_size: int | None = None,
) -> dict[str, int]:
    """Bytes per rank: fp32 weights, gradients and states of those that are trained (divided by what ZeRO
    shards), the average of the weights, activations in the run's precision for images of `image_size` pixels
    a side.

    Leaves out the framework's own memory, fragmentation and communication buffers. ZeRO stages: Rajbhandari
    et al. 2020, section 5.
    """
    stage = recipe.zero_stage_under(engine)
    weights = 4 * statistics.parameters
    trained = weights - 4 * statistics.untrained
    states = {
        "sgd": trained if recipe.optimizer.momentum else 0,
        "lars": trained,
        "muon": 2 * trained - 4 * statistics.muon,
    }.get(recipe.optimizer.name, 2 * trained)
    per_image = statistics.resized.get(image_size or 0, statistics.activation_bytes_per_image)
    width = 1 if recipe.precision == "fp32" else 2
    return {
        "weights": weights // (world_size if stage >= 3 else 1)
        + (trained // world_size if 0 < stage < 3 else 0),
        "gradients": trained // (world_size if stage >= 2 else 1),
        "optimizer_states": states // (world_size if stage >= 1 else 1),
        "average": weights if recipe.ema.decay else 0,
        "activations": per_image * micro_batch_size // width,
    }
