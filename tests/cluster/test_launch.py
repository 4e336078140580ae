"""Real launches over ssh: every launcher starts the ranks where the hostfile says, and they form one gloo
group over the network.
"""

import json
import subprocess
from pathlib import Path

import pytest

from lab.hosts import Hosts
from lbtrain.launch.hostfile import read_hostfile

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
SCRIPT = str(Path(__file__).with_name("all_reduce.py"))


def _check(folder: Path, hosts: Hosts, *, slots: int, ended: subprocess.CompletedProcess[str]) -> None:
    world_size = len(hosts.names) * slots
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    answers = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world_size)]
    for rank, answer in enumerate(answers):
        node, local_rank = divmod(rank, slots)
        expected = {
            "sum": world_size * (world_size + 1) / 2,
            "world_size": world_size,
            "host": hosts.names[node],
            "local_rank": local_rank,
        }
        assert answer == expected
    assert len(list(folder.iterdir())) == world_size


def _deepspeed(hosts: Hosts, slots: int, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    # cwd: deepspeed writes nothing here, but its ranks start in the same folder on every host.
    command = [
        "deepspeed",
        "--hostfile",
        hosts.hostfile(slots),
        "--launcher",
        "pdsh",
        *flags,
        SCRIPT,
        str(folder),
    ]
    return hosts.run("node01", command, cwd=folder)


_START = """
import sys
from pathlib import Path
from lbtrain.launch.hostfile import read_hostfile
from tools.scaling_report.measuring.launchers import commands, run_together
launcher, hostfile, log, *words = sys.argv[1:]
options = dict(hostfile=Path(hostfile), port=29511, timeout_s=240)
started = commands(launcher, read_hostfile(hostfile), words, **options)
status = run_together(started, Path(log), timeout_s=240)
sys.exit(0 if status == "ok" else status + Path(log).read_text())
"""


def _as_measure_does(launcher: str, hosts: Hosts, folder: Path) -> subprocess.CompletedProcess[str]:
    """torchrun and accelerate are started once on each host, through ssh, by what `scaling_report measure`
    starts them with.
    """
    words = [launcher, hosts.hostfile(1), str(hosts.etc / f"{launcher}.log"), SCRIPT, str(folder)]
    return hosts.run("node01", ["python", "-c", _START, *words], cwd=ROOT)


@pytest.mark.slow
def test_deepspeed_on_two_hosts_of_two(two_hosts: Hosts, tmp_path: Path) -> None:
    _check(tmp_path, two_hosts, slots=2, ended=_deepspeed(two_hosts, 2, tmp_path))


@pytest.mark.slow  # a recipe on two hosts runs by default
def test_deepspeed_on_four_hosts(four_hosts: Hosts, tmp_path: Path) -> None:
    _check(tmp_path, four_hosts, slots=1, ended=_deepspeed(four_hosts, 1, tmp_path))


def test_deepspeed_trains_a_recipe_over_two_hosts(two_hosts: Hosts, tmp_path: Path) -> None:
    overrides = [
        "batch_size=720",
        "duration=6it",
        "schedule.warmup=2it",
        "log_every=3it",
        "world_size=2",
        f"run_dir={tmp_path / 'run'}",
    ]
    command = [
        "deepspeed",
        "--hostfile",
        two_hosts.hostfile(1),
        "--launcher",
        "pdsh",
        str(ROOT / "recipes/digits/digits.py"),
        *overrides,
    ]
    ended = two_hosts.run("node01", command, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["world_size"], summary["engine"], summary["step"]) == (2, "deepspeed", 6)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [3, 6]


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_torchrun_and_accelerate_on_two_hosts(launcher: str, two_hosts: Hosts, tmp_path: Path) -> None:
    _check(tmp_path, two_hosts, slots=1, ended=_as_measure_does(launcher, two_hosts, tmp_path))


def test_our_hostfiles_mean_the_same_to_deepspeed() -> None:
    runner = pytest.importorskip("deepspeed.launcher.runner")
    for path in (ROOT / "hostfiles").iterdir():
        if path.name != "README.md":
            ours = read_hostfile(path)
            assert dict(runner.fetch_hostfile(str(path))) == dict.fromkeys(ours.names, ours.slots)
