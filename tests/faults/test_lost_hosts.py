"""A host that is cut off or hangs, a launcher that is killed, under deepspeed over two hosts: the job ends on
both, nothing stays.
"""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.hosts import Hosts, hosts_up, why_not
from tests.faults.jobs import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TIMEOUT = 20
EVERYTHING = "[r]ecipes/digits.py|[l]btrain/faults/guard|[l]auncher.launch"
"""What must be gone from a host in the end; the brackets keep the search from finding itself."""
RANKS = "[d]igits.py --local_rank|[l]btrain/faults/guard"


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    with hosts_up(2) as up:
        yield up


class Training:
    """The digits recipe under deepspeed on two hosts, until it has made ten steps."""

    def __init__(self, hosts: Hosts, folder: Path):
        self.hosts, self.run_dir = hosts, folder / "run"
        words = [
            "duration=100000it",
            "log_every=5it",
            "evaluate_every=1dur",
            f"fault_timeout={TIMEOUT}",
            f"run_dir={self.run_dir}",
        ]
        command = [
            "deepspeed",
            "--hostfile",
            hosts.hostfile(1),
            "--launcher",
            "pdsh",
            str(ROOT / "recipes/digits/digits.py"),
            *words,
        ]
        self.ended: Future = ThreadPoolExecutor().submit(hosts.run, "node01", command, cwd=ROOT, timeout=280)
        assert wait_until(lambda: self.steps() >= 10 or self.ended.done(), 200)
        assert not self.ended.done(), self.ended.result().stderr[-3000:]

    def steps(self) -> int:
        path = self.run_dir / "metrics.jsonl"
        rows = path.read_text().splitlines() if path.exists() else []
        return json.loads(rows[-1])["step"] if rows else 0

    def left(self, host: str, what: str) -> str:
        return self.hosts.run(host, ["pgrep", "-fa", what]).stdout

    def check_ends_on(self, host: str, seconds: float, what: str = EVERYTHING) -> None:
        assert wait_until(lambda: not self.left(host, what), seconds), self.left(host, what)

    @property
    def message(self) -> str:
        return (self.run_dir / "faults.log").read_text()


@pytest.mark.parametrize("lost", ["node02", "node01"])
def test_a_host_that_is_cut_off(hosts: Hosts, tmp_path: Path, lost: str):
    training, other = Training(hosts, tmp_path), {"node01": "node02", "node02": "node01"}[lost]
    started = time.monotonic()
    hosts.unplug(lost)
    for host in (other, lost):  # either side sees the other go
        training.check_ends_on(host, TIMEOUT + 10 - (time.monotonic() - started))
    assert re.search(
        rf"rank {0 if lost == 'node01' else 1} on \S+ lost after step \d+.*: not heard of for \d+ s",
        training.message,
    )


def test_a_host_that_hangs(hosts: Hosts, tmp_path: Path):
    training = Training(hosts, tmp_path)
    hosts.run("node02", ["pkill", "-STOP", "-f", EVERYTHING])
    training.check_ends_on(
        "node01", TIMEOUT + 10, RANKS
    )  # deepspeed's runner waits for the host: its sshd still answers
    assert re.search(
        r"rank 1 on node02 lost after step \d+ \([\w-]+\): not heard of for \d+ s", training.message
    )
    hosts.run("node02", ["pkill", "-CONT", "-f", EVERYTHING])
    for host in hosts.names:
        training.check_ends_on(host, TIMEOUT)


@pytest.mark.parametrize(
    "killed",
    ["^[^ ]*python[^ ]* [^ ]*bin/deepspeed ", "^[^ ]*python[^ ]* -u -m deepspeed.launcher.launch "],
    ids=["runner", "launcher"],
)
def test_a_launcher_that_is_killed(hosts: Hosts, tmp_path: Path, killed: str):
    training = Training(hosts, tmp_path)
    hosts.run("node01", ["pkill", "-KILL", "-f", killed])
    for host in hosts.names:
        training.check_ends_on(host, TIMEOUT)
    assert re.search(
        r"rank 0 on node01 lost after step \d+ \([\w-]+\): its launcher \(process \d+\) is gone",
        training.message,
    )
