"""Images/s over the batch, and a whole run, on one GPU: the cases of bench.gpu that take longest."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import rows
from bench.accuracy import ours
from bench.gpu_steps import Setting, command, free_memory
from bench.peers import Job
from bench.turns import in_turns
from lbtrain.recipe.files import load_recipe

ROOT = Path(__file__).parents[1]
LONGEST = 120.0
"""Seconds that a case may take: none is started with less left."""
LONGEST_POINT = 30.0
"""The same of one point of the `batch_size` curves, which are so many that they look at the clock between
them.
"""


def batch_size(setting: Setting) -> Iterator[rows.Row]:
    """Images/s and the seconds of an epoch of ImageNet over the batch, each batch one micro-batch; then a
    large batch in micro-batches.
    """
    sizes = {"alexnet": (128, 512, 1024, 2048, 4096, 8192), "resnet50": (32, 64, 128, 256, 512, 1024)}
    for model, batches in sizes.items():
        curve: dict[int, float] = {}
        job = _job_of(setting, model)
        title = f"{model} {job.image_size}x{job.image_size}"
        for size in (2, 4) if setting.tiny else batches:
            rates = _rates(setting, job, title, size, size)
            if not rates:
                break
            curve[size] = statistics.median(rates)
            yield from _speeds(f"{title}, batch {size}", rates)
        if len(curve) > 1:
            yield _fixed_share(title, curve)
        for micro in [size for size in curve if size < max(curve)]:
            rates = _rates(setting, job, title, max(curve), micro)
            yield from _speeds(f"{title}, batch {max(curve)} in micro-batches of {micro}", rates)


def _job_of(setting: Setting, model: str) -> Job:
    """A turn of the curve, at the size of image that the model is made for."""
    job = replace(setting.resnet50, model=model, steps=4)
    return replace(job, image_size=67 if setting.tiny else 227) if model == "alexnet" else job


def _rates(setting: Setting, job: Job, title: str, batch: int, micro: int) -> list[float]:
    """Images/s; none, and a line that says why, where the memory or the time does not do."""
    what = f"{title}, batch {batch}, {micro} images at once"
    if not setting.has_time(what, LONGEST_POINT):
        return []
    job, split = replace(job, micro_batch_size=batch), dict(micro_batch_size=micro, bn_batch_size=micro)
    free_memory()
    try:
        (seconds,) = in_turns(job, "ddp", [], rounds=1 if setting.tiny else 3, **split)
    # Beside torch's own OutOfMemoryError: cuDNN's and cuBLAS's, and tensors beyond 2^31 elements.
    except RuntimeError as error:
        print(f"{what}: not measured, {str(error).splitlines()[0]}", flush=True)
        return []
    return [batch * job.steps / turn for turn in seconds]


def _speeds(case: str, rates: list[float]) -> list[rows.Row]:
    if not rates:
        return []
    epochs, line = [1_281_167 / rate for rate in rates], command("batch_size")
    return [
        rows.single("gpu", case, rates, unit="images/s", command=line),
        rows.single("gpu", f"{case}: epoch", epochs, unit="s", command=line),
    ]


def _fixed_share(title: str, curve: dict[int, float]) -> rows.Row:
    """Of a pass of the fewest images that fill the curve's first point: what does not shrink with them, as
    scaling_report assumes it (`pass_images`, tools/scaling_report/model/assumptions.py). The line through the
    seconds of a pass over its images, by least squares.
    """
    images = list(curve)
    slope, intercept = statistics.linear_regression(images, [size / curve[size] for size in images])
    share = max(0.0, intercept) / (max(0.0, intercept) + slope * images[0])
    case = f"{title}: share of a pass of {images[0]} images that does not shrink with them"
    return rows.single("gpu", case, [share], unit="of 1", command=command("batch_size"))


def time_to_accuracy(setting: Setting) -> Iterator[rows.Row]:
    """Seconds from the start of training to the first evaluation at the error of 6 %; then beside them the
    peer's script, its own way, from start to end: with its imports, its compilation and as many runs as it
    makes, so that nothing is met or not met by this ratio.
    """
    recipe = load_recipe(ROOT / "recipes/cifar10/wide_resnet_1k.py")
    if setting.tiny:
        recipe = recipe.vary(duration="1it", data=dict(name="digits"), precision="fp32")
    outcome = ours(recipe)
    seconds = outcome.seconds_to(100.0 if setting.tiny else 6.0)
    if seconds is None:
        best = min(error for error, _ in outcome.errors)
        print(f"time_to_accuracy: not reached, the best error was {best:.2f} %", flush=True)
        return
    title, line = "CIFAR-10 to 94 %", command("time_to_accuracy")
    yield rows.single("gpu", title, [seconds], unit="s", command=line)
    if setting.speedrun and setting.has_time(setting.speedrun.name, LONGEST):
        started = time.monotonic()
        try:
            subprocess.run(
                [sys.executable, setting.speedrun.name],
                cwd=setting.speedrun.parent,
                check=True,
                timeout=LONGEST,
            )
        except subprocess.SubprocessError as error:
            print(f"{setting.speedrun.name}: not measured, {error}", flush=True)
            return
        theirs, peer = [time.monotonic() - started], f"{setting.speedrun.name}, start to end"
        yield rows.paired(
            "gpu", title, peer, [seconds], theirs, unit="s", target="", command=f"{line} --speedrun FILE"
        )
