"""Everything to be measured on one GPU, as one command of at most nine minutes; appends to results/gpu.csv.

    python -m bench.gpu                              every case, in this order, until the time is over
    python -m bench.gpu --cases resnet50 batch_size  some of them
    python -m bench.gpu --tiny                       a rehearsal: each case as small as it gets, on a CPU too; prints, writes nothing

Cases: `matrix` (TFLOP/s of a bf16 matrix product: the rate that the chip really has), `resnet50` (224 x 224, bf16, channels last,
images/s against the peers' loops and as a share of that rate), `memory` (peak of device memory against the plain loop), `optim` (LARS and
LAMB steps against timm's), `ghost` (what ghost batches of 32 cost in a batch of 4,096), `batch_size` (images/s over the batch, AlexNet and
ResNet-50: You et al. 2017 report 3x from 512 to 4,096 for AlexNet on eight GPUs). A case that the time no longer allows is named.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench import optim, rows
from bench.peers import Job, Loop, accelerate_loop, by_hand, deepspeed_loop, timm_loop
from bench.turns import in_turns

COMMAND = "python -m bench.gpu"
RESNET50_FLOPS = 3 * 2 * 4.09e9
"""Of training on one image of 224 x 224: three passes of 4.09 G multiply-adds (3.8 G in He et al. 2016, table 1: stride in the 1x1)."""


@dataclass(frozen=True)
class Setting:
    device: str
    tiny: bool
    timm_checkout: Path | None

    @property
    def resnet50(self) -> Job:
        job = Job("resnet50", 224, 256, 8, device=self.device, precision="bf16", channels_last=True)
        return replace(job, image_size=32, micro_batch_size=2, steps=1) if self.tiny else job

    @property
    def rounds(self) -> int:
        return 1 if self.tiny else 9


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
    return [rows.single("gpu", "matrix product, bf16", matrix_rate(setting), unit="TFLOP/s", command=_command("matrix"))]


def resnet50(setting: Setting) -> list[rows.Row]:
    loops: dict[str, Loop] = {"plain loop": by_hand, "accelerate loop": accelerate_loop, "DeepSpeed loop": deepspeed_loop}
    if setting.timm_checkout:
        loops["timm train.py"] = timm_loop(setting.timm_checkout)
    job = setting.resnet50
    seconds = in_turns(job, "ddp", list(loops.values()), setting.rounds)
    mine, *theirs = [[job.micro_batch_size * job.steps / turn for turn in turns] for turns in seconds]
    title = f"resnet50 {job.image_size}x{job.image_size}, bf16, channels last, batch {job.micro_batch_size}"
    measured = [
        rows.paired("gpu", title, peer, mine, rates, unit="images/s", target=">=0.98", command=_command("resnet50"))
        for peer, rates in zip(loops, theirs, strict=True)
    ]
    peak = max(matrix_rate(setting)) * 1e12
    shares = [rate * RESNET50_FLOPS / peak for rate in mine]
    share = rows.single("gpu", f"{title}: share of the matrix rate", shares, unit="of 1", command=_command("resnet50"))
    return [*measured, *([] if setting.tiny else [share])]


def memory(setting: Setting) -> list[rows.Row]:
    job = setting.resnet50

    def plain() -> None:
        loop = by_hand(job)
        next(loop)
        next(loop)

    mine, theirs = _peak(lambda: in_turns(job, "ddp", [], rounds=1)), _peak(plain)
    title = f"peak memory, resnet50 {job.image_size}x{job.image_size}, batch {job.micro_batch_size}"
    return [rows.paired("gpu", title, "plain loop", [mine], [theirs], unit="MiB", target="<=1.05", command=_command("memory"))]


def _peak(work: Callable[[], object]) -> float:
    if not torch.cuda.is_available():  # a rehearsal
        work()
        return 1.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 2**20


def batch_size(setting: Setting) -> list[rows.Row]:
    """Images/s and the seconds of an epoch of ImageNet over the batch, each batch one micro-batch."""
    sizes = {"alexnet": (128, 512, 1024, 2048, 4096, 8192), "resnet50": (32, 64, 128, 256, 512, 1024)}
    measured = []
    for model, batches in sizes.items():
        for size in batches[:1] if setting.tiny else batches:
            job = replace(setting.resnet50, model=model, micro_batch_size=2 if setting.tiny else size, steps=4)
            job = replace(job, image_size=67 if model == "alexnet" and setting.tiny else job.image_size)
            (seconds,) = in_turns(job, "ddp", [], rounds=1 if setting.tiny else 3)
            rates = [job.micro_batch_size * job.steps / turn for turn in seconds]
            command = _command("batch_size")
            measured.append(rows.single("gpu", f"{model}, batch {size}", rates, unit="images/s", command=command))
            measured.append(
                rows.single("gpu", f"{model}, batch {size}: epoch", [1_281_167 / rate for rate in rates], unit="s", command=command)
            )
    return measured


def ghost(setting: Setting) -> list[rows.Row]:
    """A step with ghost batches of 32 against one with the whole batch as ghost batch, each in turns with the plain loop."""
    job = replace(setting.resnet50, model="cifar_resnet20", image_size=32, micro_batch_size=64 if setting.tiny else 4096)
    over_plain = []
    for size in (32, job.micro_batch_size):
        ours, plain = in_turns(job, "ddp", [by_hand], setting.rounds, bn_batch_size=size)
        over_plain.append([a / b for a, b in zip(ours, plain, strict=True)])
    title = f"ghost batches of 32 in {job.micro_batch_size}, resnet20 32x32: step over the plain loop's"
    return [rows.paired("gpu", title, "one ghost batch", *over_plain, unit="x", target="", command=_command("ghost"))]


def optimizers(setting: Setting) -> list[rows.Row]:
    return [replace(optim.in_turns(case), bench="gpu", command=_command("optim")) for case in ("lars", "lamb", "lars-sgd")]


CASES: dict[str, Callable[[Setting], list[rows.Row]]] = {
    "matrix": matrix,
    "resnet50": resnet50,
    "memory": memory,
    "optim": optimizers,
    "ghost": ghost,
    "batch_size": batch_size,
}
LONGEST = 120.0
"""Seconds that a case may take: none is started with less left."""


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="(default: all)")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop before a case that may not end within this (default 9)")
    parser.add_argument("--timm", type=Path, metavar="DIR", help="a clone of timm's repository: its train.py takes part")
    parser.add_argument("--tiny", action="store_true", help="rehearse every case, also on a CPU")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        sys.exit("no GPU here: nothing measured (--tiny rehearses on a CPU)")
    setting = Setting("cuda" if torch.cuda.is_available() else "cpu", options.tiny, options.timm)
    started = time.monotonic()
    for name in options.cases:
        if time.monotonic() - started > options.minutes * 60 - LONGEST:
            print(f"{name}: not measured, no time left", flush=True)
            continue
        measured = CASES[name](setting)
        if options.tiny:
            print(*map(rows.show, measured), sep="\n", flush=True)
        else:
            rows.write(measured, "gpu")


if __name__ == "__main__":
    main()
