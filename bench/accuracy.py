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
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from bench import parser, rows
from bench.accuracy_peers import Outcome, plain, with_timm
from lbtrain import Recipe
from lbtrain.errors import RecipeError
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
