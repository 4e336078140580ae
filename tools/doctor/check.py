"""From the reports of the hosts to findings: what is wrong, whether the host can take part, and what to type
to fix it.
"""

import re
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .probe import MISSING, PACKAGES

# A host this much worse than the median is named: it will be the straggler that all others wait for.
OUTLIER = 0.20
# Networks fail by factors (a port at a tenth of its rate), and small messages scatter.
NETWORK_OUTLIER = 0.50
MOST_SKEW_S = 1.0


@dataclass(frozen=True)
class HostReport:
    """What a host reports of itself; `failure` instead of values if it reports nothing. `skew_s` is its clock
    against ours, None where it could not be read.
    """

    values: Mapping[str, Any] | None
    failure: str = ""
    skew_s: float | None = 0.0


@dataclass(frozen=True)
class Finding:
    host: str
    problem: str
    remedy: str
    cannot_take_part: bool = False


Pair = tuple[str, str]


def check(
    reports: Mapping[str, HostReport], pairs: Mapping[Pair, float | str], *, port: int
) -> list[Finding]:
    """All findings, host by host; `pairs` are all-reduce times in ms, or why a pair did not meet."""
    alive = {host: report for host, report in reports.items() if report.values is not None}
    found = [_silent(host, report.failure) for host, report in reports.items() if report.values is None]
    found += _versions(alive)
    for host, report in alive.items():
        found += _single(host, report, port)
    found += _interfaces(alive)
    for name, unit, remedy in _RATES:
        found += _slow(alive, name, unit, remedy)
    return found + _pairs(pairs, alive)


_RATES = (
    (
        "gflops",
        "GFLOP/s in a matrix product",
        "ssh {host} 'nvidia-smi -q -d CLOCK,PERFORMANCE; uptime': is something else running, or hot?",
    ),
    (
        "images_per_s",
        "loader images/s",
        "ssh {host} 'lscpu; uptime': is the clock low, or something else running?",
    ),
)


def _silent(host: str, failure: str) -> Finding:
    remedies = {
        "Permission denied": f"ssh-copy-id {host}",
        "Could not resolve": f"add {host} to /etc/hosts or ~/.ssh/config (hostfiles/README.md)",
        "No such file": (
            "install the same environment at the same path on every host, or share it over the network"
        ),
    }
    remedy = next(
        (remedy for sign, remedy in remedies.items() if sign in failure),
        f"ssh {host} true: is it up, and does its sshd listen?",
    )
    return Finding(host, f"does not answer: {failure}", remedy, cannot_take_part=True)


def _versions(alive: Mapping[str, HostReport]) -> list[Finding]:
    found = []
    for package in ("python", *PACKAGES):
        versions = {host: (report.values or {})[package] for host, report in alive.items()}
        there = {host: version for host, version in versions.items() if version != MISSING}
        if 2 * len(there) < len(versions):  # most hosts do without it, and so may the launch
            remedy = "install it on all hosts if the launch needs it"
            found += [
                Finding(host, f"{package} {version}, most hosts have none", remedy)
                for host, version in there.items()
            ]
            continue
        common = statistics.mode(there.values()) if there else ""
        for host, version in versions.items():
            if version != common:
                remedy = (
                    _install(host, package, common)
                    if package != "python"
                    else f"install Python {common} on {host}"
                )
                found.append(
                    Finding(host, f"{package} {version}, others have {common}", remedy, cannot_take_part=True)
                )
    return found


def _install(host: str, package: str, version: str) -> str:
    """What to type to have a package where the probe looked for it: this Python's path on `host`."""
    public, _, build = version.partition("+")
    # Elsewhere a version has no builds; PyTorch's are of torch and torchvision.
    built = re.fullmatch(r"cpu|cu\d+|rocm[\d.]+", build) and package in ("torch", "torchvision")
    words = [sys.executable, "-m", "pip", "install", f"{package}=={version if built else public}"]
    from_index = f" from PyTorch's own builds for {build}" if built else ""
    return f"ssh {host} {shlex.quote(shlex.join(words))}{from_index}"


def _single(host: str, report: HostReport, port: int) -> list[Finding]:
    assert report.values is not None
    found = []
    if not report.values["port_free"]:
        found.append(
            Finding(
                host,
                f"port {port} is taken",
                f"ssh {host} 'ss -ltnp sport = :{port}', or launch with another --master_port",
                True,
            )
        )
    if report.skew_s is None:
        found.append(Finding(host, "its clock could not be read", f"ssh {host} date"))
    elif abs(report.skew_s) > MOST_SKEW_S:
        found.append(
            Finding(
                host,
                f"its clock is off by {report.skew_s:+.1f} s",
                f"ssh {host} 'chronyc makestep' (or start an NTP client)",
            )
        )
    return found


def _interfaces(alive: Mapping[str, HostReport]) -> list[Finding]:
    found = []
    for host, report in alive.items():
        assert report.values is not None
        used, route = report.values["gloo_interface"], report.values["interface"]
        if route == "no route":
            found.append(Finding(host, "has no route to the others", f"ssh {host} 'ip route'", True))
        elif used and used != route and len(alive) > 1:
            found.append(
                Finding(
                    host,
                    f"GLOO_SOCKET_IFNAME={used}, but the way to the others is {route}",
                    f"export GLOO_SOCKET_IFNAME={route}",
                )
            )
    return found


def _slow(alive: Mapping[str, HostReport], name: str, unit: str, remedy: str) -> list[Finding]:
    rates = {host: float((report.values or {})[name]) for host, report in alive.items()}
    if len(rates) < 3:  # of two hosts, neither is the median
        return []
    median = statistics.median(rates.values())
    return [
        Finding(
            host, f"{rate:,.0f} {unit}, {1 - rate / median:.0%} under the median", remedy.format(host=host)
        )
        for host, rate in rates.items()
        if rate < (1 - OUTLIER) * median
    ]


def cause_of(failures: Mapping[str, str]) -> str:
    """Why two hosts did not meet, from what either says: one that waits for the other says nothing of the
    cause.
    """
    causes = {host: said for host, said in failures.items() if not _is_unreached(said)}
    return "; ".join(f"{host}: {said}" for host, said in (causes or failures).items())


def _is_unreached(said: str) -> bool:
    signs = ("timed out", "timeout", "connect", "no route", "no answer")
    return "in use" not in said and any(sign in said.lower() for sign in signs)


def _pairs(pairs: Mapping[Pair, float | str], alive: Mapping[str, HostReport]) -> list[Finding]:
    found = [
        Finding(
            second,
            f"no all-reduce with {first} ({why})",
            f"open the ports between {first} and {second}: both need all TCP ports of each other"
            if _is_unreached(why)
            else "solve what is said there, and run the doctor again",
            True,
        )
        for (first, second), why in pairs.items()
        if isinstance(why, str)
    ]
    interfaces = {host: str((report.values or {})["interface"]) for host, report in alive.items()}
    met = {pair: value for pair, value in pairs.items() if not isinstance(value, str)}
    return found + _slow_networks(met, interfaces)


def _slow_networks(times: Mapping[Pair, float], interfaces: Mapping[str, str]) -> list[Finding]:
    """Hosts that are slow with every other host, and single slow links between the others."""
    hosts = sorted({host for pair in times for host in pair})
    if len(hosts) < 3:  # of two hosts, neither is the slow one
        return []
    # A slow host makes the pairs of all others slow too: a host is as fast as in the best of its pairs.
    best = {host: min(value for pair, value in times.items() if host in pair) for host in hosts}
    # Of an even number, the faster half is what the network can do.
    usual = statistics.median_low(best.values())
    slow = [host for host in hosts if best[host] > (1 + NETWORK_OUTLIER) * usual]
    found = [
        Finding(
            host,
            f"all-reduces take {best[host]:.1f} ms at best, {best[host] / usual - 1:.0%} over the median",
            f"ssh {host} 'ethtool {interfaces[host]}; ip -s link': speed, duplex, errors, and its cable or "
            "switch port",
        )
        for host in slow
    ]
    others = {pair: value for pair, value in times.items() if not set(pair) & set(slow)}
    median = statistics.median(others.values()) if others else 0.0
    return found + [
        Finding(
            second,
            f"all-reduces with {first} take {value:.1f} ms, {value / median - 1:.0%} over the median",
            f"ssh {second} 'tracepath {first}': the way between the two, since with others both are fast",
        )
        for (first, second), value in others.items()
        if value > (1 + NETWORK_OUTLIER) * median
    ]


def rounds(hosts: Sequence[str]) -> list[list[Pair]]:
    """Every pair once, in rounds of pairs that share no host, so that the pairs of a round can be timed at
    once (circle method).
    """
    places: list[str | None] = [*hosts, *([None] if len(hosts) % 2 else [])]
    found = []
    for _ in range(len(places) - 1):
        half = len(places) // 2
        matches = zip(places[:half], reversed(places[half:]), strict=True)
        found.append(
            [(first, second) for first, second in matches if first is not None and second is not None]
        )
        places = [places[0], places[-1], *places[1:-1]]
    return found
