"""What the doctor finds in reports whose fault is known."""

import socket
import sys
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.ranks import free_port
from tools.doctor.__main__ import main
from tools.doctor.check import HostReport, cause_of, check, rounds
from tools.doctor.probe import PACKAGES, describe_host, loader_images_per_s, matrix_gflops

VALUES = {
    "python": "3.11.7", **dict.fromkeys(PACKAGES, "1.0"), "port_free": True, "pair_port": 29501,
    "interface": "eth0", "gloo_interface": None, "gflops": 100.0, "images_per_s": 200.0,
}  # fmt: skip
HEALTHY = {f"node0{i}": HostReport(VALUES) for i in range(1, 5)}
PAIRS = {pair: 10.0 for each in rounds(list(HEALTHY)) for pair in each}


def _healthy(hosts: Iterable[str]) -> dict[str, HostReport]:
    return {host: HostReport(VALUES | {"interface": f"ib-{host}"}) for host in hosts}


def _with(host: str, **changes: object) -> dict[str, HostReport]:
    return HEALTHY | {host: HostReport(VALUES | changes)}


def test_healthy_hosts_have_no_findings() -> None:
    assert check(HEALTHY, PAIRS, port=29500) == []


@pytest.mark.parametrize(
    ("reports", "problem", "remedy", "cannot"),
    [
        (
            HEALTHY | {"node03": HostReport(None, "root@node03: Permission denied (publickey).")},
            "does not answer",
            "ssh-copy-id node03",
            True,
        ),
        (
            HEALTHY | {"node03": HostReport(None, "ssh: Could not resolve hostname")},
            "does not answer",
            "/etc/hosts",
            True,
        ),
        (
            HEALTHY | {"node03": HostReport(None, "Connection timed out")},
            "does not answer",
            "ssh node03 true",
            True,
        ),
        (_with("node03", torch="0.9"), "torch 0.9, others have 1.0", "-m pip install torch==1.0'", True),
        (_with("node03", python="3.12.0"), "python 3.12.0", "install Python 3.11.7", True),
        (_with("node03", port_free=False), "port 29500 is taken", "ss -ltnp", True),
        (_with("node03", interface="no route"), "no route", "ip route", True),
        (
            _with("node03", gloo_interface="lo"),
            "GLOO_SOCKET_IFNAME=lo",
            "export GLOO_SOCKET_IFNAME=eth0",
            False,
        ),
        (_with("node03", gflops=70.0), "30% under the median", "nvidia-smi", False),
        (_with("node03", images_per_s=100.0), "50% under the median", "lscpu", False),
        (HEALTHY | {"node03": replace(HEALTHY["node03"], skew_s=-3.0)}, "off by -3.0 s", "chronyc", False),
        (HEALTHY | {"node03": replace(HEALTHY["node03"], skew_s=None)}, "clock could not", "date", False),
    ],
)
def test_each_fault_is_named_with_its_remedy(
    reports: dict[str, HostReport], problem: str, remedy: str, cannot: bool
) -> None:
    (finding,) = check(reports, {}, port=29500)
    assert finding.host == "node03"
    assert problem in finding.problem
    assert remedy in finding.remedy
    assert finding.cannot_take_part == cannot


@pytest.mark.parametrize(
    ("versions", "blamed"),
    [
        (["missing", "1.2"], ["a"]),
        (["1.2", "missing"], ["b"]),
        (["1.2", "1.2", "missing"], ["c"]),
        (["missing", "1.1", "1.2", "1.2"], ["a", "b"]),
        (["missing", "missing"], []),
    ],
)
def test_a_package_that_is_missing_is_no_version_to_install(versions: list[str], blamed: list[str]) -> None:
    reports = {
        host: HostReport(VALUES | {"deepspeed": version})
        for host, version in zip("abcd", versions, strict=False)
    }
    findings = check(reports, {}, port=29500)
    assert [finding.host for finding in findings] == blamed
    for finding in findings:
        assert finding.remedy == f"ssh {finding.host} '{sys.executable} -m pip install deepspeed==1.2'"


def test_a_package_that_most_hosts_do_without_blames_none_of_them() -> None:
    reports = {host: HostReport(VALUES | {"deepspeed": "missing"}) for host in HEALTHY}
    (finding,) = check(reports | {"node03": HEALTHY["node03"]}, {}, port=29500)
    assert finding.host == "node03" and finding.problem == "deepspeed 1.0, most hosts have none"
    assert not finding.cannot_take_part


@pytest.mark.parametrize(
    ("package", "version", "words"),
    [
        ("torch", "2.9.1+cu128", "torch==2.9.1+cu128' from PyTorch's own builds for cu128"),
        ("torch", "2.6.0a0+ecf3bae40a.nv25.1", "torch==2.6.0a0'"),
        ("deepspeed", "0.19.8+1a2b3c", "deepspeed==0.19.8'"),
    ],
)
def test_a_build_is_installed_from_where_it_is(package: str, version: str, words: str) -> None:
    reports = {host: HostReport(VALUES | {package: version}) for host in HEALTHY}
    (finding,) = check(reports | {"node03": HostReport(VALUES)}, {}, port=29500)
    assert finding.remedy == f"ssh node03 '{sys.executable} -m pip install {words}"


@pytest.mark.parametrize("number", [3, 4, 7])
@pytest.mark.parametrize("factor", [1.6, 2.8, 9.5])
def test_a_slow_cable_is_named_and_its_neighbours_are_not(number: int, factor: float) -> None:
    hosts = [f"node{i}" for i in range(number)]
    for slow in hosts:
        times = {pair: 5.0 * factor if slow in pair else 5.0 for each in rounds(hosts) for pair in each}
        (finding,) = check(_healthy(hosts), times, port=29500)
        assert finding.host == slow and not finding.cannot_take_part
        assert (
            f"{factor - 1:.0%} over the median" in finding.problem
            and f"ssh {slow} 'ethtool ib-{slow}; " in finding.remedy
        )


def test_two_slow_cables_of_four_are_named() -> None:
    pairs = {pair: 95.0 if {"node01", "node03"} & set(pair) else 10.0 for pair in PAIRS}
    assert [finding.host for finding in check(HEALTHY, pairs, port=29500)] == ["node01", "node03"]


@pytest.mark.parametrize("hosts", [["a", "b", "c"], list(HEALTHY)])
def test_one_slow_link_between_hosts_that_are_fast_is_named_as_such(hosts: list[str]) -> None:
    times = {pair: 5.0 for each in rounds(hosts) for pair in each}
    for first, second in times:
        (finding,) = check(_healthy(hosts), times | {(first, second): 50.0}, port=29500)
        assert finding.host == second
        assert finding.problem == f"all-reduces with {first} take 50.0 ms, 900% over the median"


def test_of_two_hosts_neither_is_the_slow_one() -> None:
    assert check(_healthy("ab"), {("a", "b"): 500.0}, port=29500) == []


WAITED = "DistNetworkError: The client socket has timed out after 20000ms while trying to connect to (a, 1)."


@pytest.mark.parametrize(
    ("first", "second", "said", "remedy"),
    [
        (
            "Timed out after 21 seconds waiting for clients. 1/2 clients joined.",
            WAITED,
            WAITED,
            "open the ports",
        ),
        ("ModuleNotFoundError: No module named 'torch'", WAITED, "named 'torch'", "solve what is said"),
        (
            "no local network address: EADDRINUSE, address already in use",
            WAITED,
            "in use",
            "solve what is said",
        ),
        ("", "RuntimeError: ifa != nullptr", "node04: RuntimeError: ifa", "solve what is said"),
    ],
)
def test_a_pair_that_does_not_meet_cannot_take_part(first: str, second: str, said: str, remedy: str) -> None:
    failures = {host: text for host, text in (("node01", first), ("node04", second)) if text}
    (finding,) = check(HEALTHY, PAIRS | {("node01", "node04"): cause_of(failures)}, port=29500)
    assert finding.cannot_take_part and finding.host == "node04"
    assert "node01" in finding.problem and said in finding.problem and remedy in finding.remedy


def test_pairs_meet_on_a_port_that_is_free() -> None:
    with socket.socket() as taken, socket.socket() as next_to_it:
        port = free_port()
        for place, each in enumerate((taken, next_to_it)):
            each.bind(("", port + place))
            each.listen()
        found = describe_host(port, "127.0.0.1")
        assert not found["port_free"] and port + 1 < found["pair_port"] < port + 100


@given(st.integers(1, 33))
def test_every_pair_meets_once_in_rounds_without_a_shared_host(number: int) -> None:
    hosts = [f"node{i}" for i in range(number)]
    schedule = rounds(hosts)
    met = [frozenset(pair) for each in schedule for pair in each]
    assert len(met) == len(set(met)) == number * (number - 1) // 2
    for each in schedule:
        used = [host for pair in each for host in pair]
        assert len(used) == len(set(used))


def test_rates_are_positive() -> None:
    assert matrix_gflops(size=64, repeats=2) > 0
    assert loader_images_per_s(seconds=0.01) > 0


def test_a_missing_hostfile_and_a_bad_port_end_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--hostfile", "nowhere"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main(["--hostfile", "nowhere", "--port", "0"])
    assert exit_.value.code == 2
