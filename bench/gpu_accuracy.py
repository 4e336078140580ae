"""Whole runs on CIFAR-10 on one GPU: the cases `time_to_accuracy` and `curve` of bench.gpu."""

import functools
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from bench import rows
from bench.accuracy import ours
from bench.gpu_setting import Setting, command
from lbtrain import Recipe
from lbtrain.data import registry
from lbtrain.errors import Diverged
from lbtrain.plan.scaling import peak_lr
from lbtrain.recipe.files import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes/cifar10"
LONGEST_SPEEDRUN = 120.0
"""Seconds."""


def time_to_accuracy(setting: Setting) -> Iterator[rows.Row]:
    """Seconds from the start of training to the first evaluation at the error of 6 %, or the lowest error
    where none came to it; then beside them the peer's script, its own way, from start to end: with its
    imports, its compilation and as many runs as it makes, so that nothing is met or not met by this ratio.
    """
    recipe = load_recipe(RECIPES / "wide_resnet_1k.py")
    if setting.tiny:
        recipe = recipe.vary(duration="1it", data=dict(name="digits"), precision="fp32")
    ours(recipe.vary(duration="2it"))  # which starts cuDNN and tries its algorithms
    outcome = ours(recipe)
    seconds = outcome.seconds_to(100.0 if setting.tiny else 6.0)
    title, line = "CIFAR-10 to 94 %", command("time_to_accuracy")
    if seconds is None:
        lowest = min(error for error, _ in outcome.errors)
        missed = f"{title}: not reached in {recipe.duration}, lowest top-1 error"
        yield rows.single("gpu", missed, [lowest], unit="%", command=line)
        return
    yield rows.single("gpu", title, [seconds], unit="s", command=line)
    if setting.speedrun and setting.has_time(setting.speedrun.name, LONGEST_SPEEDRUN):
        script, started = setting.speedrun.resolve(), time.monotonic()
        try:
            subprocess.run(
                [sys.executable, script.name], cwd=script.parent, check=True, timeout=LONGEST_SPEEDRUN
            )
        except subprocess.SubprocessError as error:
            print(f"{script.name}: not measured, {error}", flush=True)
            return
        theirs, peer = [time.monotonic() - started], f"{script.name}, start to end"
        line = f"{line} --speedrun FILE"
        yield rows.paired("gpu", title, peer, [seconds], theirs, unit="s", target="", command=line)


ARMS = {"linear rule, warm-up": "resnet8_4k", "Muon, square-root rule": "resnet8_4k_muon"}
BATCH_SIZES, SEEDS, EPOCHS = (512, 2048, 8192, 16384), 3, 8
"""24 runs, of about eight seconds each on an H200 (planned, not measured)."""


def curve(setting: Setting) -> Iterator[rows.Row]:
    """The last error of ResNet-20 over the batch, a row a run: all batches and arms with one seed, then with
    the next, until the time is over. A run that diverges has the error nan.
    """
    longest = 20.0
    sizes, seeds = ((32, 64), 1) if setting.tiny else (BATCH_SIZES, SEEDS)
    # The images are read once, and not for every run.
    with mock.patch.object(registry, "read_arrays", functools.cache(registry.read_arrays)):
        for seed in range(seeds):
            for size in sizes:
                for arm in ARMS:
                    case = f"CIFAR-10, resnet20, {EPOCHS} epochs, batch {size}, {arm}, seed {seed}"
                    if not setting.has_time(case, longest):
                        return
                    started = time.monotonic()
                    with setting.guarded(case):
                        error = _error(_run_of(setting, arm, size, seed))
                        yield rows.single("gpu", case, [error], unit="% error", command=command("curve"))
                    longest = max(longest, time.monotonic() - started)


def _run_of(setting: Setting, arm: str, batch_size: int, seed: int) -> Recipe:
    """One of the arm's recipe, with its rate by the arm's rule."""
    recipe = load_recipe(RECIPES / f"{ARMS[arm]}.py")
    if recipe.schedule.rule == "table":  # by the rule that its table follows, at batches that are not in it
        tuned = dict(base_lr=peak_lr(recipe), base_batch_size=recipe.batch_size)
        recipe = recipe.vary(schedule=dict(rule="sqrt", table=[], **tuned))
    recipe = recipe.vary(
        seed=seed,
        batch_size=batch_size,
        max_micro_batch_size=0,
        model=dict(name="cifar_resnet20"),
        duration=f"{EPOCHS}ep",
        evaluate_every="1dur",
        log_every="1ep",
    )
    if not setting.tiny:
        return recipe
    return recipe.vary(bn_batch_size=32, duration="1it", data=dict(name="digits"), precision="fp32")


def _error(recipe: Recipe) -> float:
    try:
        return ours(recipe).errors[-1][0]
    except Diverged:
        return math.nan
