"""The doctor on real hosts: all well, a port taken, and a host whose cable is pulled."""

from pathlib import Path

import pytest

from lab.hosts import Hosts

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


def test_the_doctor_passes_healthy_hosts_and_names_the_interface(two_hosts: Hosts) -> None:
    answer = two_hosts.run(
        "node01", ["python", "-m", "tools.doctor", "--hostfile", two_hosts.hostfile(1)], cwd=ROOT
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.count("eth0") == 2
    assert "cannot take part" not in answer.stdout


def test_the_doctor_exits_3_on_a_host_that_is_unplugged(two_hosts: Hosts) -> None:
    two_hosts.unplug("node02")
    answer = two_hosts.run(
        "node01", ["python", "-m", "tools.doctor", "--hostfile", two_hosts.hostfile(1)], cwd=ROOT
    )
    two_hosts.plug("node02")
    assert answer.returncode == 3, answer.stdout + answer.stderr
    assert "node02: does not answer" in answer.stdout
    assert "to fix: ssh node02" in answer.stdout
