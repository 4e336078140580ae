"""Images/s on one GPU against the peers' loops: the cases `resnet50` and `vit` of bench.gpu."""

from collections.abc import Generator, Iterator
from functools import partial

import torch

from bench import rows
from bench.gpu_setting import Setting, command
from bench.gpu_steps import matrix_rate
from bench.peers import Job, Loop, accelerate_loop, by_hand, deepspeed_loop, timm_loop
from bench.turns import in_turns
from tools.scaling_report.model.presets import GPUS, find

NVIDIA_A100 = 2470
"""Images/s of ResNet-50 v1.5 on one A100-SXM-80GB in mixed fp16: NVIDIA's DeepLearningExamples, PyTorch,
README.
"""
RESNET50_FLOPS = 3 * 2 * 4.09e9
"""Of training on one image of 224 x 224: three passes of 4.09 G multiply-adds (3.8 G in He et al. 2016, table
1: stride in the 1x1).
"""


def resnet50(setting: Setting) -> Iterator[rows.Row]:
    job = setting.resnet50
    title = f"resnet50 {job.image_size}x{job.image_size}, bf16, channels last, batch {job.micro_batch_size}"
    more: dict[str, Loop] = {"accelerate loop": accelerate_loop, "DeepSpeed loop": deepspeed_loop}
    mine = yield from _beside(setting, job, title, "resnet50", more)
    if setting.tiny:
        return
    peak = max(matrix_rate(setting)) * 1e12
    shares = [rate * RESNET50_FLOPS / peak for rate in mine]
    yield rows.single(
        "gpu", f"{title}: share of the matrix rate", shares, unit="of 1", command=command("resnet50")
    )
    yield from _beside_nvidia(title, mine)


def vit(setting: Setting) -> Iterator[rows.Row]:
    job = setting.vit
    title = f"ViT-S/16 {job.image_size}x{job.image_size}, bf16, batch {job.micro_batch_size}"
    yield from _beside(setting, job, title, "vit", {})


def _beside(
    setting: Setting, job: Job, title: str, case: str, more: dict[str, Loop]
) -> Generator[rows.Row, None, list[float]]:
    """Rows against the plain loop, `more`, and timm's train.py where there is a checkout; returns our
    images/s.
    """
    loops = {"plain loop": by_hand, **more}
    if setting.timm_checkout:
        loops["timm train.py"] = partial(timm_loop, setting.timm_checkout)
    failed = set[str]()
    attempts = [_named(peer, loop, failed) for peer, loop in loops.items()]
    seconds = in_turns(job, "ddp", attempts, setting.rounds)
    mine, *theirs = [[job.micro_batch_size * job.steps / turn for turn in turns] for turns in seconds]
    for peer, rates in zip(loops, theirs, strict=True):
        if peer not in failed:
            yield rows.paired(
                "gpu", title, peer, mine, rates, unit="images/s", target=">=0.98", command=command(case)
            )
    return mine


def _named(peer: str, loop: Loop, failed: set[str]) -> Loop:
    """`loop`, which where it fails is named, joins `failed`, and has empty turns from then on."""

    def attempt(job: Job) -> Iterator[None]:
        try:
            yield from loop(job)
        except (
            Exception,
            SystemExit,
        ) as error:  # whatever a peer makes of this machine, the others are measured
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
