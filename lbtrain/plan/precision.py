"""What precision=auto means on a machine, and what a GPU's arithmetic costs in exactness."""

import os
import re
from functools import partial
from pathlib import Path

import torch

from lbtrain.recipe import Recipe

NATIVE = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of /proc/cpuinfo (x86 and Arm) of a CPU that multiplies bf16 numbers itself."""


def resolve_precision(recipe: Recipe, engine: str) -> tuple[Recipe, str]:
    """The recipe with its precision, and why it is that one (empty where the recipe says it). bf16 with
    channels_last where the device computes it natively, fp32 elsewhere. fp16 is never chosen: its loss scale
    skips steps.
    """
    if recipe.precision != "auto":
        return recipe, ""
    chosen = partial(recipe.vary, expect=recipe.expect, finding=recipe.finding)  # the same experiment
    device, native = device_with_bf16()
    if not native:
        return chosen(precision="fp32"), f"auto: {device} does not compute bf16 natively"
    last = recipe.zero_stage_under(engine) == 0
    kept = "" if last else "; channels_last needs ZeRO stage 0"
    return chosen(precision="bf16", channels_last=last), f"auto: {device} computes bf16 natively{kept}"


def device_with_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, bool]:
    """What this machine trains on, and whether it computes bf16 natively."""
    if torch.cuda.is_available():
        return "this GPU", torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        lines = re.findall(r"(?m)^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text())
    except OSError:
        return "this CPU", False
    return "this CPU", bool(lines) and all(NATIVE & set(line.split()) for line in lines)


def gpu_arithmetic(recipe: Recipe) -> str:
    """In words, for a plan."""
    if recipe.deterministic:
        return "deterministic algorithms, fp32 products in full precision"
    tf32 = "fp32 products in TF32 (10 bits of mantissa) where the GPU has it; "
    products = "" if recipe.precision in ("bf16", "fp16") else tf32
    return f"{products}cudnn.benchmark, so that two runs differ by rounding (deterministic=true: neither)"


def product_precision(recipe: Recipe) -> str:
    """What this machine computes the recipe's matrix products and convolutions in: its precision, or tf32
    where fp32 allows it and the GPU has it. ROCm computes fp32 in full unless a variable says else.
    """
    allowed = recipe.precision == "fp32" and not recipe.deterministic
    if allowed and torch.cuda.is_available() and not torch.version.hip and device_with_bf16()[1]:
        return "tf32"  # the same GPUs have it as have bf16
    return recipe.precision


def set_gpu_arithmetic(recipe: Recipe) -> None:
    """Applies it; nothing without a GPU. Before the first operation on the device."""
    if not torch.cuda.is_available():
        return
    exact = recipe.deterministic
    # Without it cuBLAS is not deterministic; torch reads it once in a process, at the first product, and that
    # may be another run's.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = not exact
    torch.backends.cudnn.allow_tf32 = not exact
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.use_deterministic_algorithms(exact)
