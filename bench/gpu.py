"""Everything to be measured on one GPU, as one command of at most nine minutes; appends to results/gpu.csv.

    python -m bench.gpu                              every case, in this order, until the time is over
    python -m bench.gpu --cases resnet50 batch_size  some of them
    python -m bench.gpu --tiny                       a rehearsal that writes nothing: small, on a CPU too

Cases: `matrix` (TFLOP/s of a bf16 matrix product: the rate that the chip really has), `resnet50` (224 x 224,
bf16, channels last, images/s against the peers' loops, as a share of that rate, and of the data sheet's rate
beside NVIDIA's published run), `memory` (peak of device memory against the plain loop), `optim` (LARS and
LAMB steps against timm's), `ghost` (what ghost batches of 32 cost in a batch of 4,096), `time_to_accuracy`
(seconds of training until 94 % on CIFAR-10 with recipes/cifar10/wide_resnet_1k.py; --speedrun: a peer's
script beside it; LBTRAIN_DATA: where CIFAR-10 lies), `batch_size` (images/s over batch and micro-batch,
AlexNet and ResNet-50: You et al. 2017 report 3x from 512 to 4,096 for AlexNet on eight GPUs). What does not
fit the memory, fails, or has no time left is named, and the rest goes on.

Rows go to results/gpu.csv, or into the folder that LBTRAIN_RESULTS names. A machine that has torch,
torchvision, timm and scikit-learn, but no package index, gets the rest as files: `make wheels
GPU_PYTHON=3.12` here, for the Python there, and there `python -m pip install --no-deps wheels/*.whl`.

Accuracy against batch size is a command of its own, for a longer loan of a GPU:

    python -m tools.study sweep recipes/cifar10/wide_resnet.py \\
        --batch-sizes 64,256,1024,4096,8192,16384 --seeds 3 --out runs/cifar10_sweep
"""

import argparse
import gc
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch

from bench import optim, rows
from bench.peers import Job, Loop, accelerate_loop, by_hand, deepspeed_loop, timm_loop
from bench.turns import in_turns
from lbtrain import Recipe
from lbtrain.errors import UserError
from lbtrain.recipe.files import load_recipe
from lbtrain.run import run
from lbtrain.runs.records import Records
from lbtrain.runs.rows import EvalRow, Row
from tools.scaling_report.model.presets import GPUS

COMMAND = "python -m bench.gpu"
ROOT = Path(__file__).parents[1]
NVIDIA_A100 = 2470
"""Images/s of ResNet-50 v1.5 on one A100-SXM-80GB in mixed fp16: NVIDIA's DeepLearningExamples, PyTorch,
README.
"""
RESNET50_FLOPS = 3 * 2 * 4.09e9
"""Of training on one image of 224 x 224: three passes of 4.09 G multiply-adds (3.8 G in He et al. 2016, table
1: stride in the 1x1).
"""


@dataclass(frozen=True)
class Setting:
    device: str
    tiny: bool
    timm_checkout: Path | None = None
    speedrun: Path | None = None
    ends: float = math.inf
    """When the time is over, by time.monotonic()."""

    @property
    def resnet50(self) -> Job:
        job = Job("resnet50", 224, 256, 8, device=self.device, precision="bf16", channels_last=True)
        return replace(job, image_size=32, micro_batch_size=2, steps=1) if self.tiny else job

    @property
    def rounds(self) -> int:
        return 1 if self.tiny else 9

    def has_time(self, what: str, seconds: float) -> bool:
        """Whether so many are left; says so where they are not."""
        if time.monotonic() + seconds <= self.ends:
            return True
        print(f"{what}: not measured, no time left", flush=True)
        return False


def _command(case: str) -> str:
    return f"{COMMAND} --cases {case}"


def matrix_rate(setting: Setting) -> list[float]:
    """TFLOP/s of some products of random bf16 matrices, each long enough to be timed alone."""
    size = 256 if setting.tiny else 8192
    a, b = (torch.randn(size, size, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(13):
        optim.wait()
        started = time.perf_counter()
        a @ b
        optim.wait()
        rates.append(2 * size**3 / (time.perf_counter() - started) / 1e12)
    return rates[3:]


def matrix(setting: Setting) -> list[rows.Row]:
    return [
        rows.single(
            "gpu", "matrix product, bf16", matrix_rate(setting), unit="TFLOP/s", command=_command("matrix")
        )
    ]


def resnet50(setting: Setting) -> list[rows.Row]:
    loops: dict[str, Loop] = {
        "plain loop": by_hand,
        "accelerate loop": accelerate_loop,
        "DeepSpeed loop": deepspeed_loop,
    }
    if setting.timm_checkout:
        loops["timm train.py"] = timm_loop(setting.timm_checkout)
    job, failed = setting.resnet50, set[str]()
    seconds = in_turns(
        job, "ddp", [_named(peer, loop, failed) for peer, loop in loops.items()], setting.rounds
    )
    mine, *theirs = [[job.micro_batch_size * job.steps / turn for turn in turns] for turns in seconds]
    title = f"resnet50 {job.image_size}x{job.image_size}, bf16, channels last, batch {job.micro_batch_size}"
    measured = [
        rows.paired(
            "gpu", title, peer, mine, rates, unit="images/s", target=">=0.98", command=_command("resnet50")
        )
        for peer, rates in zip(loops, theirs, strict=True)
        if peer not in failed
    ]
    peak = max(matrix_rate(setting)) * 1e12
    shares = [rate * RESNET50_FLOPS / peak for rate in mine]
    share = rows.single(
        "gpu", f"{title}: share of the matrix rate", shares, unit="of 1", command=_command("resnet50")
    )
    return [*measured, *([] if setting.tiny else [share, *_beside_nvidia(title, mine)])]


def _named(peer: str, loop: Loop, failed: set[str]) -> Loop:
    """`loop`, which where it fails is named, joins `failed`, and has empty turns from then on."""

    def attempt(job: Job) -> Iterator[None]:
        try:
            yield from loop(job)
        except (
            Exception
        ) as error:  # whatever a peer makes of this machine, ours and the other peers are measured
            print(f"{peer}: not measured, {type(error).__name__}: {error}", flush=True)
            failed.add(peer)
        while True:
            yield

    return attempt


def _beside_nvidia(title: str, rates: list[float]) -> list[rows.Row]:
    """Ours as a share of this card's data sheet over NVIDIA's share of an A100's; none for a card whose data
    sheet is not known.
    """
    name = torch.cuda.get_device_name().lower().replace("h200", "h100")  # the same chip with another memory
    sheet = next(
        (gpu.tflops["bf16"] for key, gpu in GPUS.items() if key in name and "bf16" in gpu.tflops), None
    )
    if sheet is None:
        return []
    mine = [rate * RESNET50_FLOPS / (sheet * 1e12) for rate in rates]
    theirs = [NVIDIA_A100 * RESNET50_FLOPS / (GPUS["a100"].tflops["fp16"] * 1e12)] * len(mine)
    peer = f"NVIDIA's published run: {NVIDIA_A100:,} images/s on an A100 80 GB, mixed fp16"
    title = f"{title}: share of the data sheet's rate"
    return [
        rows.paired("gpu", title, peer, mine, theirs, unit="of 1", target="", command=_command("resnet50"))
    ]


def memory(setting: Setting) -> list[rows.Row]:
    job = setting.resnet50

    def plain() -> None:
        loop = by_hand(job)
        next(loop)
        next(loop)

    mine, theirs = _peak(lambda: in_turns(job, "ddp", [], rounds=1)), _peak(plain)
    title = f"peak memory, resnet50 {job.image_size}x{job.image_size}, batch {job.micro_batch_size}"
    return [
        rows.paired(
            "gpu",
            title,
            "plain loop",
            [mine],
            [theirs],
            unit="MiB",
            target="<=1.05",
            command=_command("memory"),
        )
    ]


def _peak(work: Callable[[], object]) -> float:
    if not torch.cuda.is_available():  # a rehearsal
        work()
        return 1.0
    _free()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _free() -> None:
    """What earlier runs left on the device: an engine and its model refer to each other."""
    gc.collect()
    torch.cuda.empty_cache()


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
    if not setting.has_time(what, _LONGEST_POINT):
        return []
    job, split = replace(job, micro_batch_size=batch), dict(micro_batch_size=micro, bn_batch_size=micro)
    _free()
    try:
        (seconds,) = in_turns(job, "ddp", [], rounds=1 if setting.tiny else 3, **split)
    except (
        RuntimeError
    ) as error:  # beside torch's own OutOfMemoryError: cuDNN's and cuBLAS's, and tensors beyond 2^31 elements
        print(f"{what}: not measured, {str(error).splitlines()[0]}", flush=True)
        return []
    return [batch * job.steps / turn for turn in seconds]


def _speeds(case: str, rates: list[float]) -> list[rows.Row]:
    if not rates:
        return []
    epochs, command = [1_281_167 / rate for rate in rates], _command("batch_size")
    return [
        rows.single("gpu", case, rates, unit="images/s", command=command),
        rows.single("gpu", f"{case}: epoch", epochs, unit="s", command=command),
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
    return rows.single("gpu", case, [share], unit="of 1", command=_command("batch_size"))


def time_to_accuracy(setting: Setting) -> Iterator[rows.Row]:
    """Seconds from the start of training to the first evaluation at the error of 6 %; then beside them the
    peer's script, its own way, from start to end: with its imports, its compilation and as many runs as it
    makes, so that nothing is met or not met by this ratio.
    """
    recipe = load_recipe(ROOT / "recipes/cifar10/wide_resnet_1k.py")
    if setting.tiny:
        recipe = recipe.vary(duration="1it", data=dict(name="digits"), precision="fp32")
    seconds, best = _seconds_to(recipe, 100.0 if setting.tiny else 6.0)
    if seconds is None:
        print(f"time_to_accuracy: not reached, the best error was {best:.2f} %", flush=True)
        return
    title, command = "CIFAR-10 to 94 %", _command("time_to_accuracy")
    yield rows.single("gpu", title, [seconds], unit="s", command=command)
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
            "gpu", title, peer, [seconds], theirs, unit="s", target="", command=f"{command} --speedrun FILE"
        )


def _seconds_to(recipe: Recipe, error: float) -> tuple[float | None, float]:
    """When the error was first reached, and the best one."""
    errors: list[tuple[float, float]] = []
    write, started = Records.write, time.monotonic()

    def note(records: Records, row: Row) -> None:
        write(records, row)
        if isinstance(row, EvalRow):
            errors.append((row.metrics["top1_error"], time.monotonic() - started))

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Records, "write", note):
        run(recipe.vary(run_dir=f"{folder}/run"), "time_to_accuracy", on_screen=False)
    return next((seconds for found, seconds in errors if found <= error), None), min(
        found for found, _ in errors
    )


def ghost(setting: Setting) -> list[rows.Row]:
    """A step with ghost batches of 32 against one with the whole batch as ghost batch, each in turns with the
    plain loop.
    """
    job = replace(
        setting.resnet50, model="cifar_resnet20", image_size=32, micro_batch_size=64 if setting.tiny else 4096
    )
    over_plain = []
    for size in (32, job.micro_batch_size):
        ours, plain = in_turns(job, "ddp", [by_hand], setting.rounds, bn_batch_size=size)
        over_plain.append([a / b for a, b in zip(ours, plain, strict=True)])
    title = f"ghost batches of 32 in {job.micro_batch_size}, resnet20 32x32: step over the plain loop's"
    return [
        rows.paired(
            "gpu", title, "one ghost batch", *over_plain, unit="x", target="", command=_command("ghost")
        )
    ]


def optimizers(setting: Setting) -> list[rows.Row]:
    return [
        replace(optim.in_turns(case), bench="gpu", command=_command("optim"))
        for case in ("lars", "lamb", "lars-sgd")
    ]


CASES: dict[str, Callable[[Setting], Iterable[rows.Row]]] = {
    "matrix": matrix,
    "resnet50": resnet50,
    "memory": memory,
    "optim": optimizers,
    "ghost": ghost,
    "time_to_accuracy": time_to_accuracy,
    "batch_size": batch_size,
}
LONGEST = 120.0
"""Seconds that a case may take: none is started with less left."""
_LONGEST_POINT = 30.0
"""The same of one point of the `batch_size` curves, which are so many that they look at the clock between
them.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", nargs="+", choices=list(CASES), default=list(CASES), help="The cases (default: all)."
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=9.0,
        help="Minutes; a case that may not end within them is not started (default 9).",
    )
    parser.add_argument(
        "--timm",
        type=Path,
        metavar="DIR",
        default=os.environ.get("TIMM"),
        help="A clone of timm's repository, whose train.py takes part (default: $TIMM).",
    )
    parser.add_argument(
        "--speedrun",
        type=Path,
        metavar="FILE",
        help="A peer's script that trains CIFAR-10 to 94 %%, which is timed too.",
    )
    parser.add_argument("--tiny", action="store_true", help="Rehearse every case, also on a CPU.")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        sys.exit("no GPU here: nothing measured (--tiny rehearses on a CPU)")
    if not options.timm:
        print("timm train.py: not measured, no checkout of timm's repository (--timm DIR)", flush=True)
    ends = time.monotonic() + options.minutes * 60
    setting = Setting(
        "cuda" if torch.cuda.is_available() else "cpu", options.tiny, options.timm, options.speedrun, ends
    )
    failed = []
    for name in options.cases:
        if not setting.has_time(name, _LONGEST_POINT if name == "batch_size" else LONGEST):
            continue
        try:
            for row in CASES[name](setting):
                if options.tiny:
                    print(rows.show(row), flush=True)
                else:
                    rows.write([row], "gpu")
        except UserError as error:  # no CIFAR-10 here, say
            print(f"{name}: not measured, {error}", flush=True)
        except Exception:  # whatever it is, the GPU is lent for minutes, and the other cases are worth them
            traceback.print_exc()
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else None)


if __name__ == "__main__":
    main()
