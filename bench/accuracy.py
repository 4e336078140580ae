"""Time to accuracy on CIFAR-10: our recipe against a plain PyTorch loop with the same network and settings.

    LBTRAIN_DATA=/data python -m bench.accuracy    cifar10/resnet8; appends to results/accuracy.csv
    python -m bench.accuracy --error 30 --seeds 1 duration=8ep    another error, fewer runs, other settings

Ours and the peer train one after the other on one thread, each seed a round. Time runs from the reading of
the images to the first evaluation at the error (--error, in percent). Three rows: seconds, images/s over the
whole run with its evaluations, and the share of that time which is spent on loading images.
"""

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from bench import parser, rows
from lbtrain import Recipe
from lbtrain.data.arrays import Arrays, read_arrays
from lbtrain.data.registry import dataset_info
from lbtrain.recipe.files import load_recipe
from lbtrain.run import run
from lbtrain.runs.records import Records
from lbtrain.runs.rows import EvalRow, Row, TrainRow

COMMAND = "python -m bench.accuracy"
PEER = "plain loop, DataLoader and torchvision transforms"


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


def ours(recipe: Recipe) -> Outcome:
    """Trains by the real loop, as a user runs it, with its records and checkpoints."""
    outcome, write, started = Outcome(), Records.write, time.monotonic()

    def note(records: Records, row: Row) -> None:
        write(records, row)
        if isinstance(row, EvalRow):
            outcome.errors.append((row.metrics["top1_error"], time.monotonic() - started))
        if isinstance(row, TrainRow):
            outcome.loading += row.data_wait * (row.examples - outcome.images) / row.images_per_sec
            outcome.images = row.examples

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Records, "write", note):
        run(recipe.vary(run_dir=f"{folder}/run"), "accuracy", on_screen=False)
    outcome.seconds = time.monotonic() - started
    return outcome


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
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            outcome.images += len(labels)
        if epoch % recipe.evaluate_every.value == 0 or epoch == epochs:
            outcome.errors.append((error_of(model, test), time.monotonic() - started))
    outcome.seconds = time.monotonic() - started
    return outcome


def loaders(recipe: Recipe) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Of training and test images."""
    info = dataset_info(recipe.data)
    normalise = [
        v2.ToDtype(torch.float32, scale=False),
        v2.Normalize(list(info.mean), list(info.std)),
    ]
    crop_flip = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
    name, used = recipe.data.name, recipe.data.train_examples or None
    root = Path(recipe.data.root or os.environ["LBTRAIN_DATA"])
    images, labels = read_arrays(name, root, train=True)
    train = Images((images[:used], labels[:used]), v2.Compose([*crop_flip, *normalise]))
    test = Images(read_arrays(name, root, train=False), v2.Compose(normalise))
    return (
        DataLoader(train, batch_size=recipe.batch_size, shuffle=True, drop_last=True),
        DataLoader(test, batch_size=recipe.validation_batch_size),
    )


def sgd(recipe: Recipe, model: nn.Module, steps: int) -> tuple[torch.optim.SGD, Any]:
    """With a cosine decay over all steps; no weight decay on vectors, as in the recipe."""
    config = recipe.optimizer
    vectors = [each for each in model.parameters() if each.ndim < 2]
    others = [each for each in model.parameters() if each.ndim >= 2]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(
        groups, lr=recipe.schedule.base_lr, momentum=config.momentum, weight_decay=config.weight_decay
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
def error_of(model: nn.Module, test: DataLoader[Any]) -> float:
    """Top-1 error in percent."""
    model.eval()
    wrong = total = 0
    for images, labels in test:
        with torch.autocast("cpu", torch.bfloat16):
            found = model(images.to(memory_format=torch.channels_last)).argmax(1)
        wrong, total = wrong + int((found != labels).sum()), total + len(labels)
    model.train()
    return 100 * wrong / total


def measured(recipe: Recipe, error: float, seeds: int, typed: str) -> list[rows.Row]:
    """A row is made of the seeds with which both sides came to the error."""
    rounds = [
        (ours(each), plain(each))
        for each in (recipe.with_overrides([f"seed={seed}"]) for seed in range(seeds))
    ]
    reached = [pair for pair in rounds if all(side.seconds_to(error) is not None for side in pair)]
    print(f"{len(reached)} of {seeds} rounds came to an error of {error:g} %", flush=True)
    title = f"CIFAR-10 to {error:g} % error, {recipe.model.name}, batch {recipe.batch_size}, one thread"
    figures: list[tuple[str, str, str, Callable[[Outcome], float]]] = [
        (title, "s", "<=1.0", lambda side: side.seconds_to(error) or math.inf),
        (f"{title}: whole run", "images/s", ">=1.0", lambda side: side.images / side.seconds),
        (f"{title}: loading", "of 1", "", lambda side: side.loading / side.seconds),
    ]
    return [
        rows.paired("accuracy", case, PEER, *sides, unit=unit, target=target, command=typed)
        for case, unit, target, figure in figures
        if all(sides := [[figure(pair[side]) for pair in reached] for side in (0, 1)])
    ]


def main() -> None:
    flags = parser(COMMAND, __doc__)
    flags.add_argument("words", nargs="*", metavar="key=value", help="Overrides of the recipe.")
    flags.add_argument("--error", type=float, default=25.0, help="The top-1 error in percent (default 25).")
    flags.add_argument("--seeds", type=int, default=3, help="The number of rounds (default 3).")
    options = flags.parse_intermixed_args()
    torch.set_num_threads(1)
    recipe = load_recipe("cifar10/resnet8").with_overrides(options.words)
    typed = " ".join([COMMAND, *sys.argv[1:]])
    rows.write(measured(recipe, options.error, options.seeds, typed), "accuracy")


if __name__ == "__main__":
    main()
