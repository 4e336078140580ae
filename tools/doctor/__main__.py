"""Check the hosts of a hostfile before a launch.

For each host: reachable by ssh without a password; python and packages equal; port free; the network
interface it will use; clock skew; matrix-multiply rate; loader images/s; and the time of an all-reduce with
each other host. It names outliers against the median and says what to type to fix each finding.

  lbtrain doctor --hostfile hostfiles/2x8

Run it on the first host. Exit codes: 0 all can take part (warnings may remain), 2 no such hostfile, 3 a host
cannot take part.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lbtrain.launch.hostfile import NoSlots, read_hostfile

from ..kit import command
from ..kit.progress import bar
from ..kit.tables import Table
from .check import Finding, HostReport, Pair, cause_of, check, rounds
from .probe import MARK

_PROBE = Path(__file__).with_name("probe.py")
_TIMEOUT_S = 90
_UNDECODABLE = "backslashreplace"
"""What becomes of a host's bytes in another encoding, such as those of a Latin-1 banner: plain ASCII."""


def ask(host: str, words: Sequence[str]) -> HostReport:
    """Runs the probe on `host`; whatever the host does, a report comes back within `_TIMEOUT_S`."""
    # Only names that a launcher would carry over as well; a login shell on the host brings its own.
    inside = (
        f"cd {shlex.quote(os.getcwd())} && PYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))} exec "
    )
    # Into files: a process that the host's shell left behind keeps a pipe open for as long as it lives.
    with (
        tempfile.TemporaryFile("w+", errors=_UNDECODABLE) as out,
        tempfile.TemporaryFile("w+", errors=_UNDECODABLE) as err,
    ):
        try:
            ended = subprocess.run(
                _on(host, inside + shlex.join([sys.executable, str(_PROBE), *words])),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return HostReport(None, f"no answer in {_TIMEOUT_S} s")
        except OSError as error:
            return HostReport(None, f"{error.filename} cannot be started: {error.strerror}")
        out.seek(0), err.seek(0)
        return _report(ended.returncode, out.read(), err.read())


def _on(host: str, script: str) -> list[str]:
    """The command line that runs a shell script on a host."""
    if host == "localhost":
        return ["sh", "-c", script]
    return ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", host, script]


def _report(code: int, out: str, err: str) -> HostReport:
    """From what the probe printed, between whatever else the host's shell prints."""
    if code:
        return HostReport(None, (err.strip().splitlines() or [f"exit code {code}"])[-1])
    _, mark, rest = out.rpartition(MARK)
    if not mark:
        printed = repr(out.strip()[:60]) if out.strip() else "nothing"
        return HostReport(None, f"printed {printed} and no report")
    try:
        return HostReport(json.JSONDecoder().raw_decode(rest)[0])
    except json.JSONDecodeError as error:
        return HostReport(None, f"its report is damaged: {error}")


def skew_s(host: str) -> float | None:
    """The host's clock minus ours in seconds; None where it could not be read. The connection is up before
    the clock is read: good to half a network round trip.
    """
    try:
        process = subprocess.Popen(
            _on(host, f"echo '{MARK}ready'; read go; echo \"{MARK}$(date +%s.%N)\""),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            errors=_UNDECODABLE,
            bufsize=1,
            start_new_session=True,
        )
    except OSError:
        return None
    # With all that it started, so that the pipe ends.
    timer = threading.Timer(_TIMEOUT_S, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        return _clock_difference(process)
    finally:
        timer.cancel()


def _clock_difference(process: "subprocess.Popen[str]") -> float | None:
    assert process.stdin and process.stdout
    try:
        with process:
            if not _marked(process):
                return None
            before = time.time()
            process.stdin.write("\n")
            return float(_marked(process)) - (before + time.time()) / 2
    except (OSError, ValueError):  # it is gone, says nothing, or says no number
        return None


def _marked(process: "subprocess.Popen[str]") -> str:
    """What stands behind the mark in the next line that has one; empty at the end."""
    assert process.stdout
    return next((line.partition(MARK)[2].strip() for line in process.stdout if MARK in line), "")


def examine(host: str, port: int, peer: str) -> HostReport:
    report = ask(host, ["host", str(port), peer])
    return HostReport(report.values, report.failure, skew_s(host)) if report.values else report


def time_pair(pair: Pair, port: int) -> float | str:
    """Milliseconds of an all-reduce between the two, or why they did not meet."""
    with ThreadPoolExecutor(2) as pool:
        pending = [
            pool.submit(ask, host, ["pair", str(rank), pair[0], str(port)]) for rank, host in enumerate(pair)
        ]
        reports = {host: each.result() for host, each in zip(pair, pending, strict=True)}
    failures = {host: report.failure for host, report in reports.items() if report.values is None}
    if failures:
        return cause_of(failures)
    return max(float(report.values["ms"]) for report in reports.values() if report.values)


def time_pairs(ports: Mapping[str, int]) -> dict[Pair, float | str]:
    """Of all pairs of hosts; `ports`: a free one of each host."""
    times: dict[Pair, float | str] = {}
    all_rounds = rounds(list(ports))
    with bar("doctor: all-reduce between pairs", len(all_rounds), stderr=True) as tick:
        for pairs in all_rounds:
            with ThreadPoolExecutor(max(1, len(pairs))) as pool:
                found = pool.map(lambda pair: time_pair(pair, ports[pair[0]]), pairs)
                times |= dict(zip(pairs, found, strict=True))
            tick()
    return times


def show(reports: dict[str, HostReport], pairs: dict[Pair, float | str], findings: Sequence[Finding]) -> None:
    rows = []
    for host, report in reports.items():
        own = [finding for finding in findings if finding.host == host]
        outcome = "look" if own else "ok"
        if any(finding.cannot_take_part for finding in own):
            outcome = "cannot take part"
        rows.append([host, *_cells(host, report, pairs), outcome])
    align = "l" + "r" * len(_COLUMNS) + "l"
    print(Table(["host", *_COLUMNS, "outcome"], rows, align=align).text())
    for finding in findings:
        print(f"{finding.host}: {finding.problem}\n    to fix: {finding.remedy}")


_COLUMNS = ("python", "torch", "interface", "clock", "GFLOP/s", "images/s", "all-reduce")


def _cells(host: str, report: HostReport, pairs: dict[Pair, float | str]) -> list[str]:
    values = report.values
    if values is None:
        return ["-"] * len(_COLUMNS)
    own = [value for pair, value in pairs.items() if host in pair and not isinstance(value, str)]
    return [
        values["python"],
        values["torch"],
        values["interface"],
        "-" if report.skew_s is None else f"{report.skew_s:+.3f} s",
        f"{values['gflops']:,.0f}",
        f"{values['images_per_s']:,.0f}",
        f"{max(own):.1f} ms" if own else "-",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("doctor", __doc__)
    parser.add_argument("--hostfile", required=True, help="The hosts (hostfiles/README.md).")
    parser.add_argument(
        "--port", type=int, default=29500, help="The rendezvous port of the launch to come (default 29500)."
    )
    options = parser.parse_args(argv)
    if not 1 <= options.port <= 65534:
        parser.error(f"--port {options.port} must be between 1 and 65534")
    return command.exit_code(lambda: diagnose(options.hostfile, options.port))


def diagnose(hostfile: str, port: int) -> int:
    """Prints the table of the hosts; returns the exit code. Raises HostfileError."""
    try:
        hosts = read_hostfile(hostfile).names
    except NoSlots:
        hosts = read_hostfile(hostfile, slots_per_host=1).names  # it asks for no number of ranks
    peers = dict(zip(hosts, [*hosts[1:], hosts[0]], strict=True))
    with bar("doctor: hosts", len(hosts), stderr=True) as tick, ThreadPoolExecutor(len(hosts)) as pool:

        def examined(host: str) -> HostReport:
            report = examine(host, port, peers[host])
            tick(host)
            return report

        reports = dict(zip(hosts, pool.map(examined, hosts), strict=True))
    pairs = time_pairs(
        {host: report.values["pair_port"] for host, report in reports.items() if report.values}
    )
    findings = check(reports, pairs, port=port)
    show(reports, pairs, findings)
    return 3 if any(finding.cannot_take_part for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
