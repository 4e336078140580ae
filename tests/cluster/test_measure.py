"""A real study over two hosts: deepspeed over ssh, every step of every rank kept, a point that cannot be
recorded with its reason.
"""

from pathlib import Path

import pytest

from lab.hosts import Hosts
from tools.scaling_report.report import load

# Launches over hosts are also proven by test_launch.py, a measured study by test_slurm.py.
pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def test_two_hosts_are_measured_and_a_failing_point_does_not_stop_the_study(
    two_hosts: Hosts, tmp_path: Path
) -> None:
    flags = [
        "--hostfile",
        two_hosts.hostfile(1),
        "--gpus",
        "2",
        "--mode",
        "strong,weak",
        "--steps",
        "3",
        "--warmup",
        "1",
        "--launcher",
        "torchrun",
    ]
    # Strong scaling of 9 images over 2 ranks cannot be; weak scaling of 6 a rank can.
    recipe = [
        str(ROOT / "recipes/digits/digits.py"),
        "data.image_size=16",
        "batch_size=9",
        "bn_batch_size=3",
        "--per-gpu-batch",
        "6",
    ]
    command = [
        "python",
        "-m",
        "tools.scaling_report",
        "measure",
        *flags,
        "--out",
        str(tmp_path / "study"),
        *recipe,
    ]
    ended = two_hosts.run("node01", command, cwd=ROOT, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    strong, weak = load(tmp_path / "study/report.json").rows
    assert strong.status == "rejected: batch_size=9 cannot be split over 2 GPUs"
    assert strong.images_per_s is None
    assert weak.status == "ok"
    assert weak.images_per_s > 0
    assert weak.slowest_host in two_hosts.names
    assert len(list((tmp_path / "study/points").glob("weak*/rank*.json"))) == 4
