"""slurm: its tasks find their ranks and each other, through a stand-in for srun that starts them as srun
does.
"""

import os
import socket
from pathlib import Path

import pytest

from lab.ranks import free_port
from tests.cluster.uneven import SLOW_S, USUAL_S
from tools.scaling_report.__main__ import main
from tools.scaling_report.report import load

HERE = Path(__file__).parent


@pytest.fixture
def with_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{HERE}:{os.environ['PATH']}")


@pytest.mark.usefixtures("with_srun")
def test_two_tasks_of_slurm_are_measured_and_the_slow_one_is_named(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("localhost slots=2\n")
    words = [
        "--hostfile",
        str(hostfile),
        "--gpus",
        "2",
        "--launcher",
        "slurm",
        "--steps",
        "6",
        "--warmup",
        "1",
        "--port",
        str(free_port()),
    ]
    assert main(["measure", *words, "--out", str(tmp_path / "study"), str(HERE / "uneven.py")]) == 0
    report = load(tmp_path / "study/report.json")
    (row,) = report.rows
    assert row.status == "ok"
    assert (row.slowest_rank, row.slowest_host) == (1, socket.gethostname())
    assert row.rank_spread == pytest.approx((SLOW_S - USUAL_S) / ((SLOW_S + USUAL_S) / 2), rel=0.4)
    assert row.compute_s is not None
    assert row.compute_s >= SLOW_S
    # Each rank alone takes its own time; in step, all take the slowest's.
    assert [len(each.own_s) for each in report.own_times] == [6, 6]
    assert row.step_p50_s is not None
    assert row.step_p50_s >= SLOW_S


@pytest.mark.usefixtures("with_srun")
def test_a_task_that_fails_ends_the_others_and_the_point_says_why(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("localhost slots=2\n")
    recipe = tmp_path / "broken.py"
    recipe.write_text(
        "import os\nfrom lbtrain import Recipe\nif 'RANK' in os.environ: raise RuntimeError('no such "
        "card')\nrecipe = Recipe()\n"
    )
    words = [
        "--hostfile",
        str(hostfile),
        "--gpus",
        "2",
        "--launcher",
        "slurm",
        "--per-gpu-batch",
        "32",
        "--out",
        str(tmp_path / "study"),
    ]
    assert main(["measure", *words, str(recipe)]) == 0
    (row,) = load(tmp_path / "study/report.json").rows
    assert row.status.startswith("exit code 1: error: RuntimeError: no such card (")
