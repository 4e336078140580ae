"""Hostfiles: what is written is read back, what is read means one thing, and everything else is refused with
its line.
"""

import random
import re
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbtrain.launch.hostfile import Dialect, Hostfile, HostfileError, parse_hostfile, read_hostfile

FOLDER = Path(__file__).parents[3] / "hostfiles"
WORDS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
NAMES = WORDS.filter(lambda name: re.search("[^0-9.]", name)) | st.ip_addresses(v=4).map(str)
HOSTFILES = st.builds(
    Hostfile,
    st.lists(NAMES, min_size=1, max_size=20, unique_by=str.lower).map(tuple),
    st.integers(min_value=1, max_value=1024),
)
NOISE = st.lists(st.sampled_from(["", "# comment", "   ", "\t# node99 slots=8"]), max_size=3)


@given(HOSTFILES, st.sampled_from(get_args(Dialect)), NOISE, st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read_back(
    hostfile: Hostfile, dialect: Dialect, noise: list[str], line_end: str
) -> None:
    lines = noise + hostfile.text(dialect).splitlines() + noise
    slots = hostfile.slots if dialect == "colossalai" else None
    assert parse_hostfile(line_end.join(lines), slots_per_host=slots) == hostfile


@given(HOSTFILES, st.integers(min_value=-8, max_value=4096))
def test_a_subset_is_whole_hosts_or_rejected(hostfile: Hostfile, gpus: int) -> None:
    possible = 0 < gpus <= hostfile.gpus and gpus % hostfile.slots == 0
    if not possible:
        with pytest.raises(HostfileError, match="multiple of"):
            hostfile.subset(gpus)
        return
    subset = hostfile.subset(gpus)
    assert subset.gpus == gpus
    assert subset.names == hostfile.names[: len(subset.names)]


@pytest.mark.parametrize("gpus", [8, 16, 32, 64, 128, 256])
def test_the_usual_sizes_fit_the_largest_shipped_file(gpus: int) -> None:
    assert len(read_hostfile(FOLDER / "32x8").subset(gpus).names) == gpus // 8


def test_every_shipped_file_is_what_its_name_says() -> None:
    files = sorted(path.name for path in FOLDER.iterdir() if path.name != "README.md")
    assert files == sorted(["1x8", "2x8", "4x8", "8x8", "16x8", "32x8", "local"])
    for name in files:
        hostfile = read_hostfile(FOLDER / name)
        assert name == "local" or name == f"{len(hostfile.names)}x{hostfile.slots}"


REFUSED = [
    ("node01 slots=8\nnode01 slots=8", 2, "stands on line 1 already"),
    ("node01 slots=8\n\nNODE01 slots=8", 3, "stands on line 1 already"),
    ("localhost slots=8\n127.0.0.1 slots=8", 2, "stands on line 1 already"),
    ("10.0.0.1:8\n10.0.0.01:8", 2, "not an IPv4 address"),
    ("010.0.0.1 slots=8", 1, "not an IPv4 address"),
    ("10.1 slots=8", 1, "not an IPv4 address"),
    ("10.0.0.1 slots=8\n0xA000001 slots=8", 2, "not an IPv4 address"),
    ("0X0a.0.0.1:8", 1, "not an IPv4 address"),
    ("10.0.0x1", 1, "not an IPv4 address"),
    ("167772161 slots=8", 1, "not an IPv4 address"),
    ("256.1.1.1 slots=8", 1, "not an IPv4 address"),
    ("node01 slots=0", 1, "a host has 1 to"),
    ("node01:0", 1, "a host has 1 to"),
    (f"node01 slots={'9' * 5000}", 1, "a host has 1 to"),
    ("node01 slots=8\nnode02 slots=4", 2, "slots=4"),
    ("node01 slots=8\nnode02:8", 2, "write all lines alike"),
    ("node01 slots=8\nnode02", 2, "write all lines alike"),
    ("node01", 1, "no slot count"),
    ("node01 slots=8x", 1, "not a slot count"),
    ("node01 slots = 8", 1, "no spaces"),
    ("node01 slots=-8", 1, "not a slot count"),
    ("node01 slots=٨", 1, "not a slot count"),
    ("node01 slots=8 gpus=8", 1, "delete it"),
    ("node01 slots=8 max_slots=4", 1, "delete it"),
    ("node01:8 slots=8", 1, "write either"),
    ("# two\nnode01;reboot slots=8", 2, "not a host name"),
    ("$(reboot) slots=8", 1, "not a host name"),
    ("`reboot` slots=8", 1, "not a host name"),
    ("node01|x slots=8", 1, "not a host name"),
    ("node[1-4] slots=8", 1, "not a host name"),
    ("-oProxyCommand=x slots=8", 1, "not a host name"),
    ("user@node01 slots=8", 1, "ssh/config"),
    ("fe80::1 slots=8", 1, "ssh/config"),
    ("nöde slots=8", 1, "not a host name"),
    ("node01\x00 slots=8", 1, "not a host name"),
    ("node01\u2028slots=8", 1, "not a host name"),
    ("a" * 300 + " slots=8", 1, "not a host name"),
]


@pytest.mark.parametrize(("text", "line", "reason"), REFUSED)
def test_rejections_name_the_line_and_the_remedy(text: str, line: int, reason: str) -> None:
    with pytest.raises(HostfileError, match=re.escape(reason)) as refusal:
        parse_hostfile(text, source="hosts")
    assert str(refusal.value).startswith(f"hosts, line {line}: ")
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\r\n"])
def test_a_file_without_hosts_is_rejected(text: str) -> None:
    with pytest.raises(HostfileError, match="no host in it"):
        parse_hostfile(text, slots_per_host=8)


def test_open_mpi_ceiling_and_trailing_comment(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"node01 slots=8 max_slots=8\t# rack 1\r\n10.0.0.2 slots=8\r\n")
    assert read_hostfile(path) == Hostfile(("node01", "10.0.0.2"), 8)


@pytest.mark.parametrize("first", [b"node01 slots=8", b"# hosts"])
def test_a_byte_order_mark_is_rejected_since_launchers_take_it_for_a_host_name(tmp_path: Path, first) -> None:
    (tmp_path / "hosts").write_bytes(b"\xef\xbb\xbf" + first + b"\nnode02 slots=8\n")
    with pytest.raises(
        HostfileError, match=r"hosts, line 1: begins with a byte-order mark.*UTF-8 without one"
    ):
        read_hostfile(tmp_path / "hosts")


def test_a_missing_file_a_folder_and_bytes_that_are_no_text_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(HostfileError, match="cannot be read"):
        read_hostfile(tmp_path / "nowhere")
    with pytest.raises(HostfileError, match="cannot be read"):
        read_hostfile(tmp_path)
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    with pytest.raises(HostfileError, match="line 1"):
        read_hostfile(tmp_path / "binary")


def test_slots_beside_the_file_must_agree_with_it() -> None:
    assert parse_hostfile("node01 slots=4", slots_per_host=4).slots == 4
    with pytest.raises(HostfileError, match="slots_per_host"):
        parse_hostfile("node01 slots=4", slots_per_host=8)


def test_ten_thousand_lines_are_read_in_linear_time() -> None:
    hostfile = Hostfile(tuple(f"node{i}" for i in range(10_000)), 8)
    start = time.perf_counter()
    assert parse_hostfile(hostfile.text()) == hostfile
    assert time.perf_counter() - start < 5  # 0.05 s is usual; quadratic would take minutes


@settings(max_examples=300)
@given(st.text(max_size=200))
def test_any_text_is_read_or_rejected(text: str) -> None:
    _read_or_refuse(text)


def test_mutated_files_are_read_or_rejected() -> None:
    """A fuzz run: 5,000 damaged copies of a good file. What is accepted holds names that a shell takes
    literally.
    """
    rng = random.Random(0)
    good = read_hostfile(FOLDER / "4x8").text()
    accepted = sum(_read_or_refuse(_damaged(good, rng)) for _ in range(5_000))
    assert 200 < accepted < 4_800  # both outcomes were exercised


def _damaged(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 4)):
        start, length = rng.randrange(len(text) + 1), rng.choice([0, 1, 1, 5])
        insert = rng.choice(
            [
                "",
                "",
                "#",
                "\n",
                "\r\n",
                " ",
                ":",
                "=",
                ";",
                "$(x)",
                "0",
                "9",
                "\x00",
                "é",
                "slots=8",
                text[:20],
                "-",
            ]
        )
        text = text[:start] + insert + text[start + length :]
    return text


def _read_or_refuse(text: str) -> bool:
    try:
        hostfile = parse_hostfile(text, slots_per_host=8)
    except HostfileError as refusal:
        assert re.match(r"hostfile(, line \d+)?: ", str(refusal))
        return False
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in hostfile.names)
    assert len({name.lower() for name in hostfile.names}) == len(hostfile.names)
    return True
