"""What steps cost on one GPU: the cases of bench.gpu that time some of them."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench import optim, rows
from bench.peers import Job, Loop, accelerate_loop, by_hand, deepspeed_loop, timm_loop
from bench.turns import in_turns
from tools.scaling_report.model.presets import GPUS, find

COMMAND = "python -m bench.gpu"
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
        small = replace(job, model="test_resnet", image_size=32, micro_batch_size=2, steps=1)
        return small if self.tiny else job

    @property
    def rounds(self) -> int:
        return 1 if self.tiny else 9

    def has_time(self, what: str, seconds: float) -> bool:
        """Whether so many are left; says so where they are not."""
        if time.monotonic() + seconds <= self.ends:
            return True
        print(f"{what}: not measured, no time left", flush=True)
        return False


def command(case: str) -> str:
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
            "gpu", "matrix product, bf16", matrix_rate(setting), unit="TFLOP/s", command=command("matrix")
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
            "gpu", title, peer, mine, rates, unit="images/s", target=">=0.98", command=command("resnet50")
        )
        for peer, rates in zip(loops, theirs, strict=True)
        if peer not in failed
    ]
    peak = max(matrix_rate(setting)) * 1e12
    shares = [rate * RESNET50_FLOPS / peak for rate in mine]
    share = rows.single(
        "gpu", f"{title}: share of the matrix rate", shares, unit="of 1", command=command("resnet50")
    )
    return [*measured, *([] if setting.tiny else [share, *_beside_nvidia(title, mine)])]


def _named(peer: str, loop: Loop, failed: set[str]) -> Loop:
    """`loop`, which where it fails is named, joins `failed`, and has empty turns from then on."""

    def attempt(job: Job) -> Iterator[None]:
        try:
            yield from loop(job)
        except Exception as error:  # whatever a peer makes of this machine, the others are measured
            print(f"{peer}: not measured, {type(error).__name__}: {error}", flush=True)
            failed.add(peer)
        while True:
            yield

    return attempt


def _beside_nvidia(title: str, rates: list[float]) -> list[rows.Row]:
    """Ours as a share of this card's data sheet over NVIDIA's share of an A100's; none for a card whose data
    sheet is not known.
    """
    card = find(torch.cuda.get_device_name(), GPUS)
    sheet = card and GPUS[card].tflops.get("bf16")
    if not sheet:
        return []
    mine = [rate * RESNET50_FLOPS / (sheet * 1e12) for rate in rates]
    theirs = [NVIDIA_A100 * RESNET50_FLOPS / (GPUS["a100"].tflops["fp16"] * 1e12)] * len(mine)
    peer = f"NVIDIA's published run: {NVIDIA_A100:,} images/s on an A100 80 GB, mixed fp16"
    title = f"{title}: share of the data sheet's rate"
    return [
        rows.paired("gpu", title, peer, mine, theirs, unit="of 1", target="", command=command("resnet50"))
    ]


ARITHMETIC: dict[str, dict[str, Any]] = {
    "fp32, deterministic=true": {"precision": "fp32", "channels_last": False, "deterministic": True},
    "fp32 (TF32, cudnn.benchmark)": {"precision": "fp32", "channels_last": False},
    "bf16": {"channels_last": False},
    "bf16, channels last": {},
    "bf16, channels last, deterministic=true": {"deterministic": True},
    "bf16, channels last, compiled": {"compile": True},
}


def arithmetic(setting: Setting) -> Iterator[rows.Row]:
    """The same loop in each."""
    job = setting.resnet50
    for name, changes in ARITHMETIC.items():
        if not setting.has_time(name, 30):
            return
        [seconds] = in_turns(job, "ddp", [], setting.rounds, **changes)
        rates = [job.micro_batch_size * job.steps / turn for turn in seconds]
        title = f"resnet50 {job.image_size}x{job.image_size}, batch {job.micro_batch_size}: {name}"
        yield rows.single("gpu", title, rates, unit="images/s", command=command("arithmetic"))


def memory(setting: Setting) -> list[rows.Row]:
    job = setting.resnet50

    def plain() -> None:
        loop = by_hand(job)
        next(loop)
        next(loop)

    mine, theirs = _peak(lambda: in_turns(job, "ddp", [], rounds=1)), _peak(plain)
    title = f"peak memory, resnet50 {job.image_size}x{job.image_size}, batch {job.micro_batch_size}"
    peaks, line = ([mine], [theirs]), command("memory")
    return [rows.paired("gpu", title, "plain loop", *peaks, unit="MiB", target="<=1.05", command=line)]


def _peak(work: Callable[[], object]) -> float:
    if not torch.cuda.is_available():  # a rehearsal
        work()
        return 1.0
    free_memory()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def free_memory() -> None:
    """What earlier runs left on the device: an engine and its model refer to each other."""
    gc.collect()
    torch.cuda.empty_cache()


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
            "gpu", title, "one ghost batch", *over_plain, unit="x", target="", command=command("ghost")
        )
    ]


def optimizers(setting: Setting) -> list[rows.Row]:
    return [
        replace(optim.in_turns(case), bench="gpu", command=command("optim"))
        for case in ("lars", "lamb", "lars-sgd")
    ]
