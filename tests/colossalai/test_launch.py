"""A recipe under `colossalai run`: on this machine taken for two hosts, on two hosts, and where its hostfile
is not what it seems.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lab.hosts import hosts_up, why_not
from lab.ranks import free_port
from lbtrain.launch.hostfile import Hostfile

ROOT = Path(__file__).parents[2]
RECIPE = [
    str(ROOT / "recipes/digits/digits.py"),
    "batch_size=64",
    "bn_batch_size=32",
    "duration=6it",
    "schedule.warmup=2it",
    "log_every=3it",
]


def environment() -> dict[str, str]:
    # `colossalai run` starts the `torchrun` that comes first on PATH.
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


def colossalai(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["colossalai", "run", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )


def losses(run_dir: Path) -> list[float]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of plain torch on one process."""
    run_dir = tmp_path_factory.mktemp("plain") / "run"
    done = subprocess.run(
        [sys.executable, *RECIPE, "engine=ddp", f"run_dir={run_dir}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(run_dir)


def check(run_dir: Path, done: subprocess.CompletedProcess[str], expected: Sequence[float]) -> None:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    assert (summary["world_size"], summary["engine"], summary["step"]) == (2, "colossalai", 6)
    assert losses(run_dir) == pytest.approx(expected, rel=1e-5)


def test_two_names_of_this_machine(tmp_path, expected):
    # ColossalAI takes 0.0.0.0 for this machine too; localhost would be rejected beside 127.0.0.1.
    (tmp_path / "hosts").write_text(Hostfile(("127.0.0.1", "0.0.0.0"), 1).text("colossalai"))
    launcher = [
        "--hostfile",
        str(tmp_path / "hosts"),
        "--nproc_per_node",
        "1",
        "--master_port",
        str(free_port()),
    ]
    check(tmp_path / "run", colossalai(*launcher, *RECIPE, f"run_dir={tmp_path / 'run'}"), expected)


@pytest.mark.cluster
def test_two_hosts(tmp_path, expected):
    if reason := why_not():
        pytest.skip(reason)
    with hosts_up(2) as hosts:
        (tmp_path / "hosts").write_text(Hostfile(hosts.names, 1).text("colossalai"))
        command = [
            "colossalai",
            "run",
            "--hostfile",
            str(tmp_path / "hosts"),
            "--nproc_per_node",
            "1",
            *RECIPE,
            f"run_dir={tmp_path / 'run'}",
        ]
        done = hosts.run("node01", command, cwd=ROOT, timeout=280)
    check(tmp_path / "run", done, expected)


def test_torchrun_with_the_engine_by_name(tmp_path, expected):
    launcher = ["torchrun", "--nproc_per_node", "2", "--master_port", str(free_port())]
    torchrun = [*launcher, *RECIPE, "engine=colossalai", f"run_dir={tmp_path / 'run'}"]
    check(
        tmp_path / "run",
        subprocess.run(torchrun, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=280),
        expected,
    )


def test_a_hostfile_that_is_not_there_trains_nothing_and_exits_0(tmp_path):
    """ColossalAI's own answer, before anything of ours runs: only its exit code misleads."""
    done = colossalai(
        "--hostfile",
        str(tmp_path / "nowhere"),
        "--nproc_per_node",
        "1",
        *RECIPE,
        f"run_dir={tmp_path / 'run'}",
    )
    assert (done.returncode, (tmp_path / "run").exists()) == (0, False)
    assert "Unable to find the hostfile" in done.stdout


def test_a_hostfile_without_hosts_is_rejected(tmp_path):
    """ColossalAI goes on with this machine alone."""
    (tmp_path / "hosts").write_text("\n")
    launcher = [
        "--hostfile",
        str(tmp_path / "hosts"),
        "--nproc_per_node",
        "1",
        "--master_port",
        str(free_port()),
    ]
    done = colossalai(*launcher, *RECIPE, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 1  # whatever the ranks' exit code is: here 3
    assert "no host in it" in done.stdout + done.stderr
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_one_machine_under_two_names_is_rejected(tmp_path):
    """ColossalAI starts two sets of ranks on it, which on GPUs share the same ones."""
    (tmp_path / "hosts").write_text("127.0.0.1\nlocalhost\n")
    launcher = ["--hostfile", str(tmp_path / "hosts"), "--nproc_per_node", "1"]
    done = colossalai(*launcher, "--master_port", str(free_port()), *RECIPE, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert "host 'localhost' stands on line 1 already" in done.stdout + done.stderr
    assert not (tmp_path / "run/metrics.jsonl").exists()


@pytest.mark.parametrize("line", ["# a comment", "localhost slots=1"])
def test_its_reader_takes_bare_names_alone(line, tmp_path, monkeypatch):
    """Comments and slot counts become host names, which do not resolve; ours writes its dialect:
    Hostfile.text("colossalai").
    """
    run = pytest.importorskip("colossalai.cli.launcher.run")
    monkeypatch.setattr(run, "HostInfo", lambda hostname, port: type("Info", (), {"hostname": hostname}))
    (tmp_path / "hosts").write_text(f"{line}\n")
    assert [info.hostname for info in run.fetch_hostfile(str(tmp_path / "hosts"), None)] == [line]
    (tmp_path / "hosts").write_text(Hostfile(("node01", "node02"), 8).text("colossalai"))
    assert [info.hostname for info in run.fetch_hostfile(str(tmp_path / "hosts"), None)] == [
        "node01",
        "node02",
    ]
