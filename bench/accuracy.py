"""Time to accuracy on CIFAR-10: our recipe against a plain PyTorch loop, and timm's train.py, with the same
network and settings.

    LBTRAIN_DATA=/data python -m bench.accuracy    cifar10/resnet8; appends to results/accuracy.csv
    python -m bench.accuracy --timm CHECKOUT       timm's train.py takes part
    python -m bench.accuracy --error 30 --seeds 1 duration=8ep    another error, fewer runs, other settings

Ours and the peers train one after the other on one thread, each seed a round. Time runs from the reading of
the images to the first evaluation at the error (--error, in percent). Three rows a peer: seconds, images/s
over the whole run with its evaluations, and the share of that time which is spent on loading images.
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
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from bench import parser, rows, timm_train
from lbtrain import Recipe
from lbtrain.data.arrays import Arrays, read_arrays
from lbtrain.data.registry import dataset_info
from lbtrain.engines.ddp import autocast_of
from lbtrain.errors import RecipeError
from lbtrain.plan.scaling import peak_lr
from lbtrain.recipe import differences, value_of, written
from lbtrain.recipe.files import load_recipe
from lbtrain.run import run
from lbtrain.runs.records import Records
from lbtrain.runs.rows import EvalRow, Row, TrainRow
from tools.kit.progress import bar

COMMAND = "python -m bench.accuracy"
RECIPE = "cifar10/resnet8"
OURS = "lbtrain"
PLAIN = "plain loop, DataLoader and torchvision transforms"
TIMM = "timm train.py"
CPU = torch.device("cpu")
_VALIDATED = re.compile(r"Test: \[ *(\d+)/(\d+)\].* Acc@1: *[\d.]+ \( *([\d.]+)\)")
_TRAINED = re.compile(r"Train: \d+ \[ *(\d+)/(\d+) .* Data: [\d.]+ \(([\d.]+)\)")
FOLLOWED = {
    "batch_size",
    "bn_batch_size",
    "max_micro_batch_size",
    "duration",
    "evaluate_every",
    "validation_batch_size",
    "precision",
    "model.name",
    "data.root",
    "data.train_examples",
    "optimizer.momentum",
    "optimizer.weight_decay",
    "schedule.base_lr",
}
"""What may differ from the recipe, since the peers do as it says."""
SAID = {"batch_size", "bn_batch_size", "duration", "precision", "model.name", "data.root"}
"""What the name of a case says in its own words, or what is no setting."""


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


def check(recipe: Recipe, *, timm_takes_part: bool = False) -> None:
    """Raises RecipeError for settings that the peers would not follow."""
    changed = [key for key, *_ in differences(load_recipe(RECIPE), recipe)]
    if "seed" in changed:
        raise RecipeError("seed: the rounds have the seeds from 0 on; choose their number with --seeds")
    if ignored := [key for key in changed if key not in FOLLOWED]:
        raise RecipeError(f"the peers do not follow {', '.join(ignored)}: leave it at {RECIPE}'s")
    if recipe.precision not in ("fp32", "bf16"):
        raise RecipeError(f"precision={recipe.precision}: the peers know fp32 and bf16")
    for key in ("duration", "evaluate_every"):
        length = value_of(recipe, key)
        if not (length and length.unit == "ep" and length.value == int(length.value) > 0):
            raise RecipeError(f"{key}={written(recipe, key)}: the peers count whole epochs, such as 2ep")
    if timm_takes_part and recipe.data.train_examples:
        raise RecipeError("data.train_examples: timm's train.py takes all images; leave out --timm")
    if recipe.bn_batch_size != recipe.batch_size:
        raise RecipeError(
            f"the peers' batch norm is over all {recipe.batch_size} images: add "
            f"bn_batch_size={recipe.batch_size}"
        )


def rounds_of(recipe: Recipe, seeds: int, timm_at: Path | None) -> Iterator[dict[str, Outcome]]:
    """A round for each seed: the outcomes of ours and of each peer, by name. A peer that fails is named with
    its reason and takes part no more: hours of training of the others are not lost with it.
    """
    trainers: dict[str, Callable[[Recipe], Outcome]] = {OURS: ours, PLAIN: plain}
    if timm_at:
        trainers[TIMM] = partial(with_timm, timm_at)
    with bar("runs", seeds * len(trainers)) as tick:
        for seed in range(seeds):
            seeded, outcomes = recipe.with_overrides([f"seed={seed}"]), dict[str, Outcome]()
            for name, train in list(trainers.items()):
                try:
                    outcomes[name] = train(seeded)
                except Exception as error:
                    if name == OURS:
                        raise
                    print(f"{name}: not measured, {type(error).__name__}: {error}", flush=True)
                    del trainers[name]
                    continue
                tick(f"{name}, seed {seed}: {outcomes[name].seconds:,.0f} s")
            yield outcomes


def title_of(recipe: Recipe, error: float) -> str:
    """Of the case, with all that differs from the recipe, so that other settings are a row of their own; but
    for the place of the images.
    """
    made = f"{recipe.model.name}, batch {recipe.batch_size}, {recipe.duration}, {recipe.precision}"
    changed = [key for key, *_ in differences(load_recipe(RECIPE), recipe) if key not in SAID]
    more = "".join(f", {key}={written(recipe, key)}" for key in changed)
    return f"CIFAR-10 to {error:g} % error, {made}, one thread{more}"


def compared(
    title: str, error: float, seeds: int, command: str, rounds: list[dict[str, Outcome]]
) -> list[rows.Row]:
    """The rows of each peer that is in every round. The time of a peer is of the seeds with which both sides
    came to the error, and says of how many.
    """
    figures: list[tuple[str, str, str, Callable[[Outcome], float]]] = [
        ("", "s", "<=1.0", lambda side: side.seconds_to(error) or math.inf),
        (": whole run", "images/s", ">=1.0", lambda side: side.images / side.seconds),
        (": loading", "share of the time", "", lambda side: side.loading / side.seconds),
    ]
    names = list(rounds[-1])
    for name in names:
        own = [outcomes[name] for outcomes in rounds]
        came = sum(each.seconds_to(error) is not None for each in own)
        lowest = ", ".join(f"{min(percent for percent, _ in each.errors):.2f}" for each in own)
        said = f"{name}: {came} of {len(rounds)} runs came to an error of {error:g} %"
        print(f"{said}; lowest: {lowest}", flush=True)
    found = []
    for name in names[1:]:
        pairs = [(outcomes[OURS], outcomes[name]) for outcomes in rounds]
        reached = [pair for pair in pairs if all(side.seconds_to(error) is not None for side in pair)]
        for of, unit, target, figure in figures:
            counted = pairs if of else reached  # a rate is of the whole run
            part = f", {len(counted)} of {seeds} seeds" if len(counted) < seeds else ""
            if counted:
                values = [[figure(pair[side]) for pair in counted] for side in (0, 1)]
                case = f"{title}{part}{of}"
                found.append(
                    rows.paired("accuracy", case, name, *values, unit=unit, target=target, command=command)
                )
    return found


def main() -> None:
    flags = parser(COMMAND, __doc__, timm=True)
    flags.add_argument("words", nargs="*", metavar="key=value", help="Overrides of the recipe.")
    flags.add_argument("--error", type=float, default=25.0, help="The top-1 error in percent (default 25).")
    flags.add_argument("--seeds", type=int, default=3, help="The number of rounds (default 3).")
    options = flags.parse_intermixed_args()
    torch.set_num_threads(1)
    try:
        recipe = load_recipe(RECIPE).with_overrides(options.words)
        check(recipe, timm_takes_part=bool(options.timm))
    except RecipeError as error:
        flags.error(str(error))
    if not options.timm:
        print("timm train.py: not measured, no checkout of timm's repository (--timm DIR)", flush=True)
    typed = f"{COMMAND} --error {options.error:g} --seeds {options.seeds}"
    words = ["data.root=DIR" if word.startswith("data.root=") else word for word in options.words]
    typed = " ".join([typed, *words, *(["--timm DIR"] if options.timm else [])])
    rounds = []
    try:
        for outcomes in rounds_of(recipe, options.seeds, options.timm):
            rounds.append(outcomes)
    finally:  # also of a run that fails in a later round, or is stopped: a round is up to an hour of training
        if rounds:
            title = title_of(recipe, options.error)
            rows.write(compared(title, options.error, options.seeds, typed, rounds), "accuracy")


if __name__ == "__main__":
    main()
