"""What is not installed is named with the extra that installs it, in one line; nothing else needs it."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lbtrain.errors import EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"sklearn": "scikit-learn"}
BLOCKED = """
import runpy, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # importing it fails as where it is not installed
sys.argv = sys.argv[2:]
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__")
"""
ONE_STEP = ("duration=1it", "schedule.warmup=1it")
DIGITS, SHAPES = "recipes/digits/digits.py", "recipes/coco/mask_rcnn_shapes.py"
NEEDED = {
    "sklearn": (DIGITS, *ONE_STEP, "engine=ddp"),
    "accelerate": (DIGITS, *ONE_STEP, "engine=accelerate"),
    "deepspeed": (DIGITS, *ONE_STEP, "engine=deepspeed"),
    "pycocotools": (SHAPES, "plan_for=2"),
    "matplotlib": ("lbtrain", "study", DIGITS),
    "scipy": ("lbtrain", "scaling-report", "predict", "--help"),
    "pyarrow": (DIGITS, "plan_for=2", "data.name=imagefolder", "data.format=parquet", "data.root={photos}"),
}
"""A command that needs each package."""


def run_without(packages: str, *words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, packages, *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("package", NEEDED)
def test_one_line_names_the_extra(package, tmp_path):
    for name in ("train-0.parquet", "validation-0.parquet"):
        (tmp_path / name).write_bytes(b"PAR1")
    words = [word.format(photos=tmp_path) for word in NEEDED[package]]
    if words[0] == DIGITS:
        words.append(f"run_dir={tmp_path / 'run'}")
    ended = run_without(package, *words)
    assert ended.returncode == 2, ended.stderr
    line = f"error: {package} is not installed, and this needs it: pip install 'lbtrain[{EXTRAS[package]}]'"
    assert ended.stderr.strip().splitlines()[-1] == line and "Traceback" not in ended.stderr


def test_every_optional_package_is_tested_and_in_its_extra():
    assert set(NEEDED) == set(EXTRAS)
    extras = PROJECT["optional-dependencies"]
    for package, extra in EXTRAS.items():
        names = [re.split(r"[<>=]", entry)[0] for entry in extras[extra]]
        assert DISTRIBUTIONS.get(package, package) in names
    assert set(re.findall(r"[a-z]+", extras["all"][0])) - {"lbtrain"} == set(EXTRAS.values())


def test_a_run_needs_the_base_only(tmp_path):
    """Synthetic images with every optional package gone: no curves, but rows, checkpoint and summary."""
    words = [
        "data.name=synthetic",
        "data.image_size=32",
        "batch_size=8",
        "micro_batch_size=8",
        "duration=2it",
    ]
    words += ["model.name=cifar_resnet8", "schedule.warmup=1it", "evaluate_every=2it", f"run_dir={tmp_path}"]
    ended = run_without(",".join([*EXTRAS, "tensorboard"]), DIGITS, *words)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["step"] == 2
    assert ended.stdout.count("pip install 'lbtrain[tools]'") == 1 and not (tmp_path / "tensorboard").exists()
