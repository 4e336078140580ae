"""A trained model over ranks: an evaluation counts every example once under any launcher. Fine-tuning with
a frozen part is the same run on one rank and on two.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.runs import relative_difference, train_on

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LAUNCHERS = {
    "python": ["-m", "lbtrain"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lbtrain"],
    "deepspeed": ["-m", "deepspeed.launcher.runner", "--num_accelerators", "2", "--module", "lbtrain"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    train_on(1, path, engine="ddp", duration="12it")
    return path


def test_an_evaluation_is_exact_under_every_launcher(trained, tmp_path):
    found = {}
    for name, launcher in LAUNCHERS.items():
        words = ["eval", str(trained), "--split", "train", "--out", str(tmp_path / name)]
        command = [sys.executable, *launcher, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        found[name] = json.loads((tmp_path / name / "metrics.json").read_text())
        assert (tmp_path / name / "confusion.csv").read_text() == (
            tmp_path / "python/confusion.csv"
        ).read_text()
    for metrics in found.values():
        assert metrics["examples"] == 1440
        for key in ("top1_error", "top5_error", "loss", "calibration_error"):
            assert metrics[key] == pytest.approx(found["python"][key], rel=1e-6), key


def test_fine_tuning_with_a_frozen_part_is_the_same_on_one_rank_and_on_two(trained, tmp_path):
    model = dict(name="cifar_resnet8", weights=str(trained), freeze=["conv1.*", "bn1.*", "stages.0.*"])
    options = dict(engine="ddp", seed=5, model=model)
    alone = train_on(1, tmp_path / "alone", **options)
    spread = train_on(2, tmp_path / "spread", **options)
    assert relative_difference(spread.losses, alone.losses) < 1e-5
    start = torch.load(max((trained / "checkpoints").glob("step_*.pt")), weights_only=True)["state_dict"]
    for name, moved in (("conv1.weight", False), ("fc.weight", True)):
        assert torch.equal(alone.checkpoint()["state_dict"][name], start[name]) != moved, name
