"""Check the hosts of a hostfile before a launch.

For each host: reachable by ssh without a password; python and packages equal; port free; the network
interface it will use; clock skew; matrix-multiply rate; loader images/s; and the time of an all-reduce with
each other host. Names the outliers against the median and says what to type to mend each finding.

  python -m tools.doctor --hostfile hostfiles/2x8

Run it on the first host. Exit codes: 0 all can take part (warnings may remain), 2 no such hostfile, 3 a host
cannot take part.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lbtrain.launch.hostfile import HostfileError, read_hostfile

from .judge import Answer, Finding, Pair, judge, rounds

_PROBE = Path(__file__).with_name("probe.py")
_TIMEOUT_S = 90


def ask(host: str, words: Sequence[str]) -> Answer:
    """Run the probe on `host`. Its clock is compared in the middle of the conversation."""
    # Only names that a launcher would carry over as well; a login shell on the host brings its own.
    inside = (
        f"cd {shlex.quote(os.getcwd())} && PYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))} exec "
    )
    command = inside + shlex.join([sys.executable, str(_PROBE), *words])
    there = (
        ["sh", "-c", command]
        if host == "localhost"
        else ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", host, command]
    )
    try:
        ended = subprocess.run(
            there, capture_output=True, text=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(None, f"no answer in {_TIMEOUT_S} s")
    if ended.returncode:
        return Answer(None, (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1])
    return Answer(json.loads(ended.stdout.splitlines()[-1]))


def skew_s(host: str) -> float:
    """The host's clock minus ours in seconds. The connection is up before the clock is read: good to half a
    network round trip.
    """
    script = "echo ready; read go; date +%s.%N"
    there = (
        ["sh", "-c", script]
        if host == "localhost"
        else ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", host, script]
    )
    with subprocess.Popen(
        there, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            return 0.0
        before = time.time()
        process.stdin.write("\n")
        said = float(process.stdout.readline())
        return said - (before + time.time()) / 2


def examine(host: str, port: int, peer: str) -> Answer:
    answer = ask(host, ["host", str(port), peer])
    return Answer(answer.values, answer.failure, skew_s(host)) if answer.values else answer


def time_pair(pair: Pair, port: int) -> float | None:
    """Milliseconds of an all-reduce between the two, or None if they did not meet."""
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(ask, host, ["pair", str(rank), pair[0], str(port)]) for rank, host in enumerate(pair)
        ]
        answers = [each.result() for each in asked]
    times = [float(answer.values["ms"]) for answer in answers if answer.values]
    return max(times) if len(times) == 2 else None


def time_pairs(hosts: Sequence[str], port: int) -> dict[Pair, float | None]:
    times: dict[Pair, float | None] = {}
    began, all_rounds = time.monotonic(), rounds(hosts)
    for number, pairs in enumerate(all_rounds):
        left = (len(all_rounds) - number) * (time.monotonic() - began) / max(1, number)
        _progress(
            f"all-reduce between pairs, round {number + 1} of {len(all_rounds)}"
            + (f", about {left:.0f} s left" if number else "")
        )
        with ThreadPoolExecutor(max(1, len(pairs))) as pool:
            times |= dict(zip(pairs, pool.map(lambda pair: time_pair(pair, port), pairs), strict=True))
    return times


def _progress(words: str) -> None:
    # Beside the table, which may be read by a program.
    print(f"doctor: {words}", file=sys.stderr, flush=True)


def show(answers: dict[str, Answer], pairs: dict[Pair, float | None], findings: Sequence[Finding]) -> None:
    width = max(map(len, [*answers, "host"]))
    print(f"{'host':{width}}" + "".join(f"{name:>12}" for name in _COLUMNS) + "  verdict")
    for host, answer in answers.items():
        worst = [finding for finding in findings if finding.host == host]
        verdict = (
            "cannot take part"
            if any(finding.cannot_take_part for finding in worst)
            else "look"
            if worst
            else "ok"
        )
        print(
            f"{host:{width}}"
            + "".join(f"{cell:>12}" for cell in _cells(host, answer, pairs))
            + f"  {verdict}"
        )
    for finding in findings:
        print(f"{finding.host}: {finding.problem}\n    to mend: {finding.remedy}")


_COLUMNS = ("python", "torch", "interface", "clock", "GFLOP/s", "images/s", "all-reduce")


def _cells(host: str, answer: Answer, pairs: dict[Pair, float | None]) -> list[str]:
    values = answer.values
    if values is None:
        return ["-"] * 7
    own = [value for pair, value in pairs.items() if host in pair and value is not None]
    exchange = f"{max(own):.1f} ms" if own else "-"
    rates = [f"{values['gflops']:,.0f}", f"{values['images_per_s']:,.0f}"]
    return [
        values["python"],
        values["torch"],
        values["interface"],
        f"{answer.skew_s:+.3f} s",
        *rates,
        exchange,
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hostfile", required=True, help="the hosts (hostfiles/README.md)")
    parser.add_argument(
        "--port", type=int, default=29500, help="rendezvous port of the launch to come (default 29500)"
    )
    options = parser.parse_args(argv)
    if not 1 <= options.port <= 65534:
        parser.error(f"--port {options.port}: a port is 1 to 65534")
    try:
        hosts = read_hostfile(options.hostfile).names
    except HostfileError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 2
    _progress(f"examining {len(hosts)} host{'s' * (len(hosts) > 1)}")
    peers = dict(zip(hosts, [*hosts[1:], hosts[0]], strict=True))
    with ThreadPoolExecutor(len(hosts)) as pool:
        answers = dict(
            zip(hosts, pool.map(lambda host: examine(host, options.port, peers[host]), hosts), strict=True)
        )
    pairs = time_pairs([host for host, answer in answers.items() if answer.values], options.port + 1)
    findings = judge(answers, pairs, port=options.port)
    show(answers, pairs, findings)
    return 3 if any(finding.cannot_take_part for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
