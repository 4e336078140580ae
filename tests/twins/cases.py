"""Our side of each twin: fifty steps from weights and images that the authors' code started from too.

A twin is an .npz file: `weights/NAME`, which both sides start from, and what the authors' code made of them
and of scikit-learn's digits: `loss` (one a step) and `final/NAME`. Both compute in float64, so that what
differs is the method; the file keeps initial weights in float16, which they are rounded to, and final ones in
float32.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lbtrain.analysis import Objective, power_iteration
from lbtrain.nn import convert_to_ghost_batch_norm
from lbtrain.nn.cifar_resnet import CifarResNet
from lbtrain.optim import LAMB, Muon, create_optimizer
from lbtrain.plan.plan import make_plan
from lbtrain.recipe.files import load_recipe
from lbtrain.runs.progress import Progress
from lbtrain.tasks import Losses
from lbtrain.techniques import AdaptiveBatches, fgsm
from lbtrain.techniques.absa import ITERATIONS, TOLERANCE
from lbtrain.techniques.weight_average import WeightAverage

FOLDER = Path(__file__).parent
STEPS, BATCH = 50, 32
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Trajectory:
    """The loss before each step, and the weights after the last one."""

    losses: list[float]
    weights: dict[str, Tensor]

    def difference(self, other: "Trajectory") -> tuple[float, float]:
        """The largest relative difference of a loss, and of a weight to the largest of its tensor."""
        losses = max(abs(a - b) / abs(b) for a, b in zip(self.losses, other.losses, strict=True))
        assert self.weights.keys() == other.weights.keys()
        weights = max(
            float((self.weights[name] - theirs).abs().max() / theirs.abs().max())
            for name, theirs in other.weights.items()
        )
        return losses, weights


def network() -> nn.Sequential:
    """A small network with everything that optimizers tell apart: convolutions, batch norm, biases."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(),
        nn.Linear(12 * 4 * 4, 10),
    ).double()  # fmt: skip


def batches(size: int = BATCH, channels: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """The digits in their order, over again where there are too few, in so many equal channels."""
    digits = load_digits()
    order = np.arange(STEPS * size) % len(digits.images)
    images = torch.from_numpy(digits.images[order]).double()[:, None].repeat(1, channels, 1, 1) / 16
    yield from zip(images.split(size), torch.from_numpy(digits.target[order]).split(size), strict=True)


def started(model: nn.Module, arrays: Arrays) -> nn.Module:
    state = model.state_dict()
    for name, value in state.items():
        if f"weights/{name}" in arrays:
            state[name] = torch.from_numpy(arrays[f"weights/{name}"]).to(value.dtype)
    model.load_state_dict(state)
    return model


def steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rates: list[float],
    examples: Iterable[tuple[Tensor, Tensor]],
    *,
    smoothing: float = 0.0,
    clip_norm: float = 0.0,
    average: WeightAverage | None = None,
) -> Trajectory:
    """As a loop without our engines would make them (docs/optimizers.md)."""
    losses = []
    for number, (lr, (images, labels)) in enumerate(zip(rates, examples, strict=True), start=1):
        loss = F.cross_entropy(model(images), labels, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        optimizer.step()
        if average:
            average.update(number)
        losses.append(loss.item())
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return Trajectory(losses, weights | (averaged(average.average) if average else {}))


def averaged(model: nn.Module) -> dict[str, Tensor]:
    """An average of the weights and of the running statistics, under names of its own."""
    state = model.state_dict()
    return {f"ema/{name}": value for name, value in state.items() if value.is_floating_point()}


def rates_of(name: str, warmup: str) -> list[float]:
    """The schedule of a recipe, squeezed into the fifty steps, at the recipe's own peak."""
    recipe = load_recipe(name)
    short = recipe.vary(duration=f"{STEPS}it", schedule=dict(warmup=warmup, warmup_rule="none"))
    plan = make_plan(short, 1)
    return [plan.lr(step * recipe.batch_size) for step in range(STEPS)]


def lars(arrays: Arrays) -> Trajectory:
    recipe = load_recipe("imagenet/resnet50_lars_8k")
    model = started(network(), arrays)
    optimizer = create_optimizer(recipe.optimizer, model)
    # Smoothing spreads over all classes here, over the others there: 0.1 * 10 / 9 for ten classes.
    return steps(model, optimizer, rates_of("imagenet/resnet50_lars_8k", "10it"), batches(), smoothing=1 / 9)


def lamb(arrays: Arrays) -> Trajectory:
    recipe = load_recipe("imagenet/resnet50_lamb_32k")
    model = started(network(), arrays)
    optimizer = create_optimizer(recipe.optimizer, model)
    rates = rates_of("imagenet/resnet50_lamb_32k", "10it")
    return steps(model, optimizer, rates, batches(), smoothing=0.1, clip_norm=recipe.optimizer.clip_norm)


def timm_lamb(arrays: Arrays) -> Trajectory:
    model = started(network(), arrays)
    optimizer = LAMB(model.parameters(), lr=0.0, weight_decay=0.02)
    return steps(model, optimizer, [0.01] * STEPS, batches(), clip_norm=1.0)


def timm_train(arrays: Arrays) -> Trajectory:
    model = started(network(), arrays)
    optimizer = LAMB(model.parameters(), lr=0.0, weight_decay=0.02)
    average = WeightAverage(model, decay=0.9)
    return steps(model, optimizer, [0.01] * STEPS, batches(), clip_norm=1.0, average=average)


def airbench(arrays: Arrays) -> Trajectory:
    """Muon on the convolutions; the other parameters stay as they are."""
    model = started(network(), arrays)
    filters = [weight for weight in model.parameters() if weight.dim() == 4]
    optimizer = Muon(filters, lr=0.0, momentum=0.6, nesterov=True, newton_schulz_steps=3)
    return steps(model, optimizer, [0.02] * STEPS, batches())


def ghost(arrays: Arrays) -> Trajectory:
    """ResNet-8 in ghost batches of 16 with the setting of resnet44_4k_ghost_bn, at 64 images a step."""
    recipe = load_recipe("cifar10/resnet44_4k_ghost_bn")
    args: Any = recipe.model.args
    model = started(CifarResNet(blocks=1, **args).double(), arrays)
    convert_to_ghost_batch_norm(model, 16)
    optimizer = create_optimizer(recipe.optimizer, model)
    rate = recipe.schedule.base_lr * (64 / 16) ** 0.5
    return steps(model, optimizer, [rate] * STEPS, batches(64, 3), clip_norm=recipe.optimizer.clip_norm)


EPOCHS, EPOCH = 14, 8
"""Of the twin of ABSA; an epoch in batches of `BATCH` images."""


class AuthorsImages(AdaptiveBatches):
    """Adversarial images as HessianFlow has them: the first of a batch, clipped at their own extremes. The
    eigenvalue is that of one batch.
    """

    def _with_adversaries(self, batch: tuple[Tensor, ...], first: int, share: float) -> tuple[Tensor, ...]:
        count = int(len(batch[0]) * share) if first < self.adversarial_until else 0
        if not count:
            return batch
        some = tuple(part[:count] for part in batch)
        low, high = some[0].min(), some[0].max()
        moved = fgsm(self.model, self._loss, some, self.config.adversarial_step, low=low, high=high)
        return torch.cat([moved, batch[0][count:]]), *batch[1:]

    def eigenvalue(self, examples: int) -> float:
        objective = Objective(self.model, self._loss, [curvature_batch()])
        return power_iteration(objective, iterations=ITERATIONS, tolerance=TOLERANCE).value


def curvature_batch() -> tuple[Tensor, Tensor]:
    return next(batches())


def absa(arrays: Arrays) -> Trajectory:
    """The setting of cifar10/absa from 32 to 256 images a step, with each eigenvalue and each epoch's rate,
    which grows as the batch does.
    """
    recipe = load_recipe("cifar10/absa").vary(
        batch_size=BATCH,
        bn_batch_size=BATCH,
        micro_batch_size=BATCH,
        duration=f"{EPOCHS * EPOCH}it",
        schedule=dict(base_batch_size=BATCH, milestones=[f"{10 * EPOCH}it"]),
        absa=dict(max_batch_size=8 * BATCH, every=f"{EPOCH}it"),
    )
    plan = make_plan(recipe, 1)
    model = started(network(), arrays)
    optimizer = create_optimizer(recipe.optimizer, model)
    task: Any = SimpleNamespace(loss=lambda model, batch: Losses({"loss": _cross_entropy(model, batch)}))
    alone: Any = SimpleNamespace(device=torch.device("cpu"), rank=0, world_size=1)
    rows: Any = SimpleNamespace(write=lambda row: eigenvalues.append(row.eigenvalue))
    control = AuthorsImages(plan, model, task, alone, rows)
    losses: list[float] = []
    eigenvalues: list[float] = []
    rates: list[float] = []
    progress = Progress()
    while progress.examples < plan.total_examples:
        phase = control.phase(progress)
        first = progress.examples // BATCH % EPOCH
        optimizer.zero_grad()
        given = islice(batches(), first, first + phase.split.accumulation)
        for number, batch in enumerate(given):
            at = progress.examples + number * phase.split.micro_batch_size
            loss = _cross_entropy(model, control.adapted(batch, phase, at))
            (loss / phase.split.accumulation).backward()
            losses.append(loss.item())
        for group in optimizer.param_groups:
            group["lr"] = plan.lr(progress.examples) * phase.lr_factor * group.get("lr_scale", 1.0)
        if not first:
            rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        progress = progress.after(phase.batch_size, updated=True)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return Trajectory(losses, weights | decisions(eigenvalues, rates[1:]))


def _cross_entropy(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def decisions(eigenvalues: list[float], rates: list[float]) -> dict[str, Tensor]:
    """As `Trajectory` compares them: to the largest."""
    return {"absa/eigenvalues": torch.tensor(eigenvalues), "absa/rates": torch.tensor(rates)}


TWINS: dict[str, Callable[[Arrays], Trajectory]] = {
    "lars": lars, "lamb": lamb, "timm_lamb": timm_lamb, "timm_train": timm_train, "airbench": airbench,
    "ghost": ghost, "absa": absa,
}  # fmt: skip


def read(name: str) -> Arrays:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def theirs(arrays: Arrays) -> Trajectory:
    """What the authors' code did."""
    weights = {
        key.removeprefix("final/"): torch.from_numpy(value)
        for key, value in arrays.items()
        if key.startswith("final/")
    }
    return Trajectory(arrays["loss"].tolist(), weights)
