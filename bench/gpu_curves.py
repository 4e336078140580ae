"""Images/s over the batch on one GPU: the case `batch_size` of bench.gpu."""

import statistics
from collections.abc import Iterator
from dataclasses import replace

from bench import rows
from bench.gpu_setting import Setting, command, free_memory
from bench.peers import Job
from bench.turns import in_turns

LONGEST_POINT = 30.0
"""Seconds that a point of the curves may take: none is started with less left."""
SIZES = {"resnet50": (32, 64, 128, 256, 512, 1024), "alexnet": (128, 512, 1024, 2048, 4096)}


def batch_size(setting: Setting) -> Iterator[rows.Row]:
    """Images/s and the seconds of an epoch of ImageNet over the batch, each batch one micro-batch; then the
    largest batches in micro-batches.
    """
    curves: dict[str, dict[int, float]] = {model: {} for model in SIZES}
    for model, curve in curves.items():
        job = _job_of(setting, model)
        for size in (2, 4) if setting.tiny else SIZES[model]:
            rates = _rates(setting, job, size, size)
            if not rates:
                break
            curve[size] = statistics.median(rates)
            yield from _speeds(f"{_title(job)}, batch {size}", rates)
        if len(curve) > 1:
            yield _fixed_share(_title(job), curve)
    for model, curve in curves.items():
        job = _job_of(setting, model)
        for micro in [size for size in curve if size < max(curve)]:
            rates = _rates(setting, job, max(curve), micro)
            yield from _speeds(f"{_title(job)}, batch {max(curve)} in micro-batches of {micro}", rates)


def _title(job: Job) -> str:
    return f"{job.model} {job.image_size}x{job.image_size}"


def _job_of(setting: Setting, model: str) -> Job:
    """A turn of the curve, at the size of image that the model is made for."""
    job = replace(setting.resnet50, model=model, steps=4)
    return replace(job, image_size=67 if setting.tiny else 227) if model == "alexnet" else job


def _rates(setting: Setting, job: Job, batch: int, micro: int) -> list[float]:
    """Images/s; none, and a line that says why, where the memory or the time does not do."""
    what = f"{_title(job)}, batch {batch}, {micro} images at once"
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
