"""The peers of `bench.accuracy`: the loop that anyone would write, and timm's train.py, with the settings of
a recipe, and what is kept of a run.
"""

import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from bench import timm_train
from lbtrain import Recipe
from lbtrain.data.arrays import Arrays, read_arrays
from lbtrain.data.registry import dataset_info
from lbtrain.engines.ddp import autocast_of
from lbtrain.plan.scaling import peak_lr

CPU = torch.device("cpu")
_VALIDATED = re.compile(r"Test: \[ *(\d+)/(\d+)\].* Acc@1: *[\d.]+ \( *([\d.]+)\)")
_TRAINED = re.compile(r"Train: \d+ \[ *(\d+)/(\d+) .* Data: [\d.]+ \(([\d.]+)\)")


@dataclass
class Outcome:
    """Of one run: errors in percent with the seconds at which they were known, and where the time went."""

    errors: list[tuple[float, float]] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    loading: float = 0.0

    def seconds_to(self, error: float) -> float | None:
        """When an evaluation first was at this error; None if none was."""
        return next((seconds for found, seconds in self.errors if found <= error), None)


class Images(Dataset[tuple[Tensor, int]]):
    """Images in memory, each with a transform of its own."""

    def __init__(self, arrays: Arrays, transform: Callable[[Tensor], Tensor]):
        self.images = torch.from_numpy(arrays[0]).permute(0, 3, 1, 2)
        self.labels, self.transform = arrays[1].astype(int), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def plain(recipe: Recipe) -> Outcome:
    """The loop that anyone would write, with the recipe's network, optimizer, schedule and epochs."""
    outcome, started = Outcome(), time.monotonic()
    torch.manual_seed(recipe.seed)
    train, test = loaders(recipe)
    model = timm.create_model(recipe.model.name, num_classes=10).to(memory_format=torch.channels_last)
    epochs = int(recipe.duration.value)
    optimizer, schedule = sgd(recipe, model, epochs * len(train))
    for epoch in range(1, epochs + 1):
        for images, labels in timed(train, outcome):
            with autocast_of(recipe.precision, CPU):
                loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            outcome.images += len(labels)
        if epoch % recipe.evaluate_every.value == 0 or epoch == epochs:
            outcome.errors.append((error_of(recipe, model, test), time.monotonic() - started))
    outcome.seconds = time.monotonic() - started
    return outcome


def loaders(recipe: Recipe) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Of training and test images."""
    info = dataset_info(recipe.data)
    normalise = [
        v2.ToDtype(torch.float32, scale=False),
        v2.Normalize(list(info.mean), list(info.std)),
    ]
    name, used, root = recipe.data.name, recipe.data.train_examples or None, data_root(recipe)
    images, labels = read_arrays(name, root, train=True)
    crop_flip = v2.Compose([*timm_train.CROP_FLIP, *normalise])
    train = Images((images[:used], labels[:used]), crop_flip)
    test = Images(read_arrays(name, root, train=False), v2.Compose(normalise))
    return (
        DataLoader(train, batch_size=recipe.batch_size, shuffle=True, drop_last=True),
        DataLoader(test, batch_size=recipe.validation_batch_size),
    )


def data_root(recipe: Recipe) -> Path:
    return Path(recipe.data.root or os.environ["LBTRAIN_DATA"])


def sgd(recipe: Recipe, model: nn.Module, steps: int) -> tuple[torch.optim.SGD, Any]:
    """With a cosine decay over all steps; no weight decay on vectors, as in the recipe."""
    config = recipe.optimizer
    vectors = [each for each in model.parameters() if each.ndim < 2]
    others = [each for each in model.parameters() if each.ndim >= 2]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(
        groups, lr=peak_lr(recipe), momentum=config.momentum, weight_decay=config.weight_decay
    )
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def timed(batches: DataLoader[Any], outcome: Outcome) -> Iterator[Any]:
    """The batches, channels last, with the time that they take added up."""
    before = time.monotonic()
    for images, labels in batches:
        outcome.loading += time.monotonic() - before
        yield images.to(memory_format=torch.channels_last), labels
        before = time.monotonic()


@torch.no_grad()
def error_of(recipe: Recipe, model: nn.Module, test: DataLoader[Any]) -> float:
    """Top-1 error in percent."""
    model.eval()
    wrong = total = 0
    for images, labels in test:
        with autocast_of(recipe.precision, CPU):
            found = model(images.to(memory_format=torch.channels_last)).argmax(1)
        wrong, total = wrong + int((found != labels).sum()), total + len(labels)
    model.train()
    return 100 * wrong / total


def with_timm(checkout: Path, recipe: Recipe) -> Outcome:
    """timm's train.py with the recipe's settings, in a process of its own. Time runs from the end of its
    imports, and is read off the lines that it logs.

    Raises RuntimeError where the script ends with an error.
    """
    outcome, started, tail = Outcome(), math.nan, ""
    launch = [sys.executable, "-m", "bench.timm_train", str(checkout), *timm_options(recipe)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryDirectory() as output,
        subprocess.Popen(
            [*launch, "--output", output],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as script,
    ):
        assert script.stdout
        for line in script.stdout:
            now, tail = time.monotonic(), (tail + line)[-2000:]
            if line.startswith(timm_train.IMPORTED):
                started = now
            elif found := _TRAINED.search(line):
                last, updates, wait = int(found[1]) + 1, int(found[2]), float(found[3])
                if last == updates:
                    outcome.images += updates * recipe.batch_size
                    outcome.loading += updates * wait
            elif (found := _VALIDATED.search(line)) and found[1] == found[2]:
                outcome.errors.append((100 - float(found[3]), now - started))
                outcome.seconds = now - started
    if script.returncode or not outcome.errors:
        raise RuntimeError(f"timm's train.py ended with {script.returncode}:\n{tail}")
    return outcome


def timm_options(recipe: Recipe) -> list[str]:
    """Of train.py. Images are cropped and flipped by the data set, since train.py has no crop after a padding
    (`timm_train`); its scheduler steps with the updates, as ours does.
    """
    info, config = dataset_info(recipe.data), recipe.optimizer
    assert recipe.evaluate_every
    options: dict[str, Any] = {
        "--dataset": f"torch/{recipe.data.name}",
        "--data-dir": data_root(recipe),
        "--model": recipe.model.name,
        "--num-classes": 10,
        "--batch-size": recipe.batch_size,
        "--validation-batch-size": recipe.validation_batch_size,
        "--workers": 0,
        "--device": "cpu",
        "--opt": "momentum",
        "--momentum": config.momentum,
        "--weight-decay": config.weight_decay,
        "--sched": "cosine",
        "--lr": peak_lr(recipe),
        "--warmup-epochs": 0,
        "--epochs": int(recipe.duration.value),
        "--val-interval": int(recipe.evaluate_every.value),
        "--smoothing": 0,
        "--seed": recipe.seed,
        "--log-interval": 1_000_000,
    }
    precision = ["--amp", "--amp-dtype", "bfloat16"] if recipe.precision == "bf16" else []
    return [
        *(str(word) for pair in options.items() for word in pair),
        *("--input-size", "3", "32", "32", "--sched-on-updates", "--no-aug", "--channels-last"),
        *("--crop-pct", "1"),  # else images to validate are enlarged to 36 pixels, of which 32 are seen
        *("--mean", *(f"{each / 255:.6g}" for each in info.mean)),
        *("--std", *(f"{each / 255:.6g}" for each in info.std)),
        *precision,
    ]
