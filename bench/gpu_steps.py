"""What steps cost on one GPU: the cases of bench.gpu that time some of them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from bench import noise_scale, optim, rows
from bench.gpu_setting import Setting, command, free_memory
from bench.peers import by_hand
from bench.turns import in_turns
from lbtrain import Recipe
from lbtrain.plan.precision import set_gpu_arithmetic


def milliseconds(work: Callable[[], object]) -> float:
    """Until the device has done all of it."""
    optim.wait()
    started = time.perf_counter()
    work()
    optim.wait()
    return 1e3 * (time.perf_counter() - started)


def matrix_rate(setting: Setting) -> list[float]:
    """TFLOP/s of some products of random bf16 matrices, each long enough to be timed alone."""
    size = 256 if setting.tiny else 8192
    a, b = (torch.randn(size, size, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    return [2 * size**3 / milliseconds(lambda: a @ b) / 1e9 for _ in range(13)][3:]


def matrix(setting: Setting) -> list[rows.Row]:
    return [
        rows.single(
            "gpu", "matrix product, bf16", matrix_rate(setting), unit="TFLOP/s", command=command("matrix")
        )
    ]


# A variant: (the seconds that it may take, what it changes in the recipe)
ARITHMETIC: dict[str, tuple[float, dict[str, Any]]] = {
    "fp32 (TF32, cudnn.benchmark)": (40, {"precision": "fp32", "channels_last": False}),
    "bf16": (30, {"channels_last": False}),
    "bf16, channels last": (30, {}),
    "fp32, deterministic=true": (60, {"precision": "fp32", "channels_last": False, "deterministic": True}),
    "bf16, channels last, deterministic=true": (40, {"deterministic": True}),
    "bf16, channels last, compiled": (120, {"compile": True}),
}


def arithmetic(setting: Setting) -> Iterator[rows.Row]:
    """The same loop in each."""
    job = setting.resnet50
    for name, (seconds, changes) in ARITHMETIC.items():
        if not setting.has_time(f"arithmetic, {name}", seconds):
            continue
        with setting.guarded(f"arithmetic, {name}"):
            free_memory()
            [turns] = in_turns(job, "ddp", [], 1 if setting.tiny else 5, **changes)
            rates = [job.micro_batch_size * job.steps / turn for turn in turns]
            title = f"resnet50 {job.image_size}x{job.image_size}, batch {job.micro_batch_size}: {name}"
            yield rows.single("gpu", title, rates, unit="images/s", command=command("arithmetic"))


def memory(setting: Setting) -> list[rows.Row]:
    job = setting.resnet50

    def ours() -> None:
        in_turns(job, "ddp", [], rounds=1)

    def plain() -> None:
        loop = by_hand(job)
        next(loop)
        next(loop)

    ours()
    plain()  # so that cuDNN's trials and cuBLAS's workspaces, which a process has once, count for neither
    mine, theirs = _peak(ours), _peak(plain)
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


OPTIMIZERS = (
    "lars",
    "lamb",
    "lars-fused-sgd",
    "lamb-fused-adamw",
    "adamw",
    "muon",
    "muon-torch",
    "muon-bf16",
)
"""Of bench.optim."""


def optimizers(setting: Setting) -> Iterator[rows.Row]:
    set_gpu_arithmetic(Recipe())  # as a run has it: Muon's products are in TF32
    for case in OPTIMIZERS:
        with setting.guarded(f"optim, {case}"):
            row = optim.in_turns(case, tiny=setting.tiny)
            title = f"optimizer step, {optim.CASES[case].model}: {case}"
            yield replace(row, bench="gpu", case=title, command=command("optim"))


NOISE_SCALE = {"accumulated, every step": (4, 1), "split, every 20 steps": (1, 20)}
"""Name: (micro-batches of a step, measured every so many steps)."""


def noise(setting: Setting) -> Iterator[rows.Row]:
    """bench.noise_scale by the clock on the wall, with ResNet-50."""
    job, batch = setting.resnet50, 8 if setting.tiny else setting.resnet50.micro_batch_size
    for name, (micro_batches, every) in NOISE_SCALE.items():
        with setting.guarded(f"noise_scale, {name}"):
            free_memory()
            step = noise_scale.stepper(
                batch // micro_batches,
                batch_size=batch,
                bn_batch_size=batch // 4,
                model=dict(name=job.model),
                data=dict(name="synthetic", image_size=job.image_size),
                precision=job.precision,
                channels_last=job.channels_last,
            )
            costs = noise_scale.costs(step, every, milliseconds, 1 if setting.tiny else 30)
            title = f"noise scale, resnet50 {job.image_size}x{job.image_size}, batch {batch}: {name}"
            yield rows.paired(
                "gpu",
                title,
                noise_scale.UNMEASURED,
                *costs,
                unit="ms a step",
                target=noise_scale.TARGET,
                command=command("noise_scale"),
            )
