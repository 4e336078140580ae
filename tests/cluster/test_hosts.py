"""The hosts themselves: separate, reachable by ssh, shapeable, and gone afterwards."""

import subprocess
import time

import pytest

from lab.hosts import Hosts, hosts_up

pytestmark = pytest.mark.cluster


def test_hosts_have_names_of_their_own_and_reach_each_other_by_ssh(two_hosts: Hosts) -> None:
    for source, target in (("node01", "node02"), ("node02", "node01"), ("node01", "node01")):
        answer = two_hosts.run(source, ["ssh", target, "hostname; echo $GLOO_SOCKET_IFNAME"], timeout=60)
        assert answer.stdout.split() == [target, "eth0"], answer.stderr


def test_a_host_sees_its_own_processes_only(two_hosts: Hosts) -> None:
    answer = two_hosts.run("node02", ["sh", "-c", "ls -d /proc/[0-9]* | wc -l; cat /proc/1/comm"])
    number, first = answer.stdout.split()
    assert int(number) < 10
    assert first == "sshd"


def test_an_unplugged_host_is_unreachable_until_plugged_in(two_hosts: Hosts) -> None:
    two_hosts.unplug("node02")
    assert two_hosts.run("node01", ["ssh", "-o", "ConnectTimeout=1", "node02", "true"]).returncode == 255
    two_hosts.plug("node02")
    assert two_hosts.run("node01", ["ssh", "node02", "true"]).returncode == 0


def test_a_command_past_its_time_is_ended_inside_the_host(two_hosts: Hosts) -> None:
    assert two_hosts.run("node01", ["sleep", "987654"], timeout=1).returncode == 124
    left = two_hosts.run("node01", ["sh", "-c", "grep -al 98765[4] /proc/[0-9]*/cmdline | wc -l"]).stdout
    assert left.strip() == "0"


def test_shaping_limits_the_rate(two_hosts: Hosts) -> None:
    two_hosts.shape("400mbit")
    start = time.perf_counter()
    copy = two_hosts.run(
        "node01",
        ["sh", "-c", "head -c 20000000 /dev/zero | ssh -c aes128-gcm@openssh.com node02 'cat > /dev/null'"],
    )
    seconds = time.perf_counter() - start
    two_hosts.shape(None)
    assert copy.returncode == 0, copy.stderr
    assert seconds > 20e6 * 8 / 400e6  # faster would mean no limit; slower is this machine's load


@pytest.mark.usefixtures("possible")
def test_nothing_is_left_behind() -> None:
    with hosts_up(2) as hosts:
        etc, processes = hosts.etc, [hosts._switch, *hosts._nodes.values()]
    assert not etc.exists()
    assert all(process.poll() is not None for process in processes)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(etc) not in listed
