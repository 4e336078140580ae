"""Hosts that answer badly: the doctor says so in their own row, and within a bounded time."""

import json
import os
import time
from pathlib import Path

import pytest

from tools.doctor import __main__ as doctor
from tools.doctor.probe import MARK

HOSTS = {
    "well": 'exec sh -c "$command"',
    "banner": "echo Welcome to node 7; printf 'maintenance at noon'; sh -c \"$command\"; echo goodbye",
    "latin": "printf 'banni\\350re\\n'; printf 'banni\\350re\\n' >&2; sh -c \"$command\"",
    "latin_refused": "printf 'acc\\350s refus\\351' >&2; exit 255",
    "silent": "exit 0",
    "chatty": "echo this account is disabled",
    "refused": "printf '*** authorised use only ***\nroot@x: Permission denied (publickey).' >&2; exit 255",
    "stalls": "sleep 1000 & wait",
    "half": f"echo '{MARK}ready'; exec sleep 1000",
    "leaves": f"echo '{MARK}ready'",
    "broken": f"echo '{MARK}{{\"half'",
}


@pytest.fixture(autouse=True)
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `ssh` that knows HOSTS, and a probe that answers at once."""
    cases = "\n".join(f"  {name}) {script} ;;" for name, script in HOSTS.items())
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f"#!/bin/sh\nfor command; do host=$last; last=$command; done\ncase $host in\n{cases}\nesac\n"
    )
    ssh.chmod(0o755)
    probe = tmp_path / "probe.py"
    probe.write_text(f"print({MARK!r} + {json.dumps(json.dumps({'ms': 3.5}))})")
    monkeypatch.setattr(doctor, "_PROBE", probe)
    monkeypatch.setattr(doctor, "_TIMEOUT_S", 3)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("host", "failure"),
    [
        ("silent", "printed nothing"),
        ("chatty", "printed 'this account is disabled' and no report"),
        ("refused", "Permission denied"),
        ("latin_refused", "acc\\xe8s refus\\xe9"),
        ("stalls", "no answer in 3 s"),
        ("half", "no answer in 3 s"),
        ("broken", "damaged"),
    ],
)
def test_a_host_that_answers_badly_has_a_reason(host: str, failure: str) -> None:
    began = time.monotonic()
    report = doctor.ask(host, [])
    assert report.values is None and failure in report.failure
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("host", ["well", "banner", "latin"])
def test_a_banner_is_no_answer_and_hides_none(host: str) -> None:
    assert doctor.ask(host, []).values == {"ms": 3.5}
    skew = doctor.skew_s(host)
    assert skew is not None and abs(skew) < 2


@pytest.mark.parametrize("host", ["silent", "chatty", "stalls", "half", "leaves"])
def test_a_clock_that_cannot_be_read_is_no_clock_that_agrees(host: str) -> None:
    began = time.monotonic()
    assert doctor.skew_s(host) is None
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("slots", [" slots=2", ":2", ""])
def test_the_table_stands_whatever_the_hosts_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slots: str
) -> None:
    """In every form of a hostfile: of ColossalAI's, names are all there is."""
    (tmp_path / "hostfile").write_text(
        "".join(f"{name}{slots}\n" for name in ("silent", "stalls", "refused"))
    )
    assert doctor.main(["--hostfile", str(tmp_path / "hostfile")]) == 3
    rows = {
        line.split()[0]: line
        for line in capsys.readouterr().out.splitlines()
        if line.endswith("cannot take part")
    }
    assert sorted(rows) == ["refused", "silent", "stalls"]


def test_what_is_wrong_in_a_file_of_names_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hostfile").write_text("well\nwell\n")
    assert doctor.main(["--hostfile", str(tmp_path / "hostfile")]) == 2
    assert "line 2: host 'well' stands on line 1 already" in capsys.readouterr().err


def test_a_pair_that_does_not_meet_says_why() -> None:
    assert doctor.time_pair(("well", "banner"), 1) == 3.5
    assert doctor.time_pair(("well", "refused"), 1) == "refused: root@x: Permission denied (publickey)."


def test_without_ssh_every_host_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "ssh" in doctor.ask("well", []).failure and doctor.skew_s("well") is None
