"""Where a number comes from: commit, hardware, versions. Every result carries these."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("torch", "torchvision", "timm", "deepspeed", "accelerate", "colossalai", "numpy")
ENGINES = frozenset({"deepspeed", "accelerate", "colossalai"})
WRITTEN_BY_RESULTS = ("results", "docs", "README.md")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Of Python and the packages that a result depends on; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(tree: Path = Path(__file__).parents[2]) -> str:
    """The commit of a source tree, this one's by default, with -dirty where its code differs from it. Outside
    a checkout what the environment variable LBTRAIN_COMMIT says, else `unknown`.

    results/, docs/ and the README may differ: a measurement writes there before the next one starts. An
    installed package is in no checkout, whatever repository its environment lies in.
    """
    if not (tree / ".git").exists():
        return os.environ.get("LBTRAIN_COMMIT") or "unknown"
    head = _git(tree, "rev-parse", "--short", "HEAD")
    changed = _git(
        tree,
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ".",
        *(f":(exclude){path}" for path in WRITTEN_BY_RESULTS),
    )
    return f"{head}-dirty" if head and changed else head or "unknown"


def _git(tree: Path, *words: str) -> str:
    try:
        return subprocess.run(
            ["git", *words], capture_output=True, text=True, cwd=tree, check=False
        ).stdout.strip()
    except OSError:
        return ""


def hardware() -> str:
    """Processor (and GPU, where torch sees one) in words."""
    import torch

    count = len(os.sched_getaffinity(0))
    cores = f"{count} core{'s' * (count > 1)} of {_processor()}"
    if not torch.cuda.is_available():
        return cores
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {cores}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
