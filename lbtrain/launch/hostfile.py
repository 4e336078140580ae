"""Hostfiles: which hosts, and how many ranks ("slots") on each, in the three dialects that launchers read.

    deepspeed    node01 slots=8    # DeepSpeed and Open MPI
    mpi          node01:8          # MPICH and Intel MPI; Open MPI's "slots=8 max_slots=8" is read as well
    colossalai   node01            # slots come from `colossalai run --nproc_per_node`

A line either means the same here as to the launcher, or is rejected with its number, the reason and a
suggested fix. Launchers accept too much: DeepSpeed trains on this machine alone when the file is missing,
reads `slots=8x` as 8, and scrambles LOCAL_RANK when hosts have unequal slots; a host name reaches a remote
shell unquoted.
"""

import codecs
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lbtrain.errors import UserError

Dialect = Literal["deepspeed", "mpi", "colossalai"]

# RFC 1123 host names and IPv4 addresses. A leading "-" would be an ssh option; anything a shell would act on
# cannot occur.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_NUMBER = re.compile("0[xX][0-9A-Fa-f]+|[0-9]*")
"""A part of a name that the system takes for an address, not for a name, if all parts are such."""
_SAME = {"localhost": "127.0.0.1"}
"""Other names of one machine; host names do not distinguish case."""
_KEYED_COUNT = re.compile(r"slots=([0-9]+)")
_LINE_END = re.compile(r"\r\n|\n|\r")
_MOST_SLOTS = 1024


class HostfileError(UserError, ValueError):
    """A hostfile that cannot be used; the message says where, why and what to write instead."""

    exit_code = 2


class NoSlots(HostfileError):
    """One that names hosts only (ColossalAI's dialect), where nothing else says how many slots they have."""


@dataclass(frozen=True, slots=True)
class Hostfile:
    """Distinct hosts in launch order (the first is the rendezvous), each with the same number of slots."""

    names: tuple[str, ...]
    slots: int

    @property
    def gpus(self) -> int:
        return len(self.names) * self.slots

    def subset(self, gpus: int) -> "Hostfile":
        """The first hosts that make up `gpus` ranks; never part of a host."""
        nodes, rest = divmod(gpus, self.slots)
        if rest or not 0 < nodes <= len(self.names):
            raise HostfileError(
                f"{gpus} GPUs cannot be taken from {len(self.names)} hosts of {self.slots} without "
                f"splitting a host: ask for a multiple of {self.slots} up to {self.gpus}"
            )
        return Hostfile(self.names[:nodes], self.slots)

    def text(self, dialect: Dialect = "deepspeed") -> str:
        """The file's content; `colossalai` leaves the slots out, so give it `--nproc_per_node`."""
        suffix = {"deepspeed": f" slots={self.slots}", "mpi": f":{self.slots}", "colossalai": ""}[dialect]
        return "".join(f"{name}{suffix}\n" for name in self.names)


def read_hostfile(path: str | Path, *, slots_per_host: int | None = None) -> Hostfile:
    """Read the hostfile at `path`; `slots_per_host` is needed where the file itself names hosts only
    (ColossalAI's dialect).
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise HostfileError(
            f"hostfile {path} cannot be read ({error.strerror}); name an existing file, such as "
            "hostfiles/local"
        ) from None
    if data.startswith(codecs.BOM_UTF8):
        raise HostfileError(
            f"{path}, line 1: begins with a byte-order mark, which launchers take for a part of the name; "
            "save the file as UTF-8 without one"
        )
    return parse_hostfile(
        data.decode("utf-8", errors="replace"), source=str(path), slots_per_host=slots_per_host
    )


def parse_hostfile(text: str, *, source: str = "hostfile", slots_per_host: int | None = None) -> Hostfile:
    """Parse the text of a hostfile; `source` is how errors call it."""
    lines: dict[str, int] = {}
    names: list[str] = []
    first: tuple[int, Dialect] | None = None
    slots = slots_per_host
    for number, raw in enumerate(_LINE_END.split(text), start=1):
        entry = raw.partition("#")[0].strip(" \t")
        if not entry:
            continue
        try:
            name, count, dialect = _parse_entry(entry)
            if first and first[1] != dialect:
                raise HostfileError(
                    f"this line is in the {dialect} dialect, line {first[0]} in {first[1]}'s; write all "
                    "lines alike"
                )
            machine = _SAME.get(name.lower(), name.lower())
            if machine in lines:
                raise HostfileError(
                    f"host {name!r} stands on line {lines[machine]} already; name it once, with all its slots"
                )
            slots = _agreed_slots(slots, count)
        except HostfileError as error:
            raise type(error)(f"{source}, line {number}: {error}") from None
        first = first or (number, dialect)
        lines[machine] = number
        names.append(name)
    if not names or slots is None:
        raise HostfileError(f"{source}: no host in it; write one line a host, such as 'node01 slots=8'")
    return Hostfile(tuple(names), slots)


def _parse_entry(entry: str) -> tuple[str, int | None, Dialect]:
    head, *options = re.split(r"[ \t]+", entry)
    name, colon, count = head.partition(":")
    if not _NAME.fullmatch(name) or (colon and not re.fullmatch("[0-9]+", count)):
        raise HostfileError(
            f"{head[:80]!r} is not a host name or IPv4 address (letters, digits, '.', '-', '_'); "
            "a user name, port or IPv6 address belongs in ~/.ssh/config under a plain name"
        )
    if all(_NUMBER.fullmatch(part) for part in name.split(".")):
        _check_address(name)
    if colon:
        if options:
            raise HostfileError(
                f"{' '.join(options)[:80]!r} after {head!r}; write either '{name}:8' or '{name} slots=8'"
            )
        return name, _slot_count(count), "mpi"
    if not options:
        return name, None, "colossalai"
    return name, _keyed_slots(options), "deepspeed"


def _check_address(name: str) -> None:
    """Raises HostfileError for what the system would take for another address than it reads as: 010.0.0.1 is
    8.0.0.1, and 10.1 and 0xA000001 are 10.0.0.1.
    """
    try:
        ipaddress.IPv4Address(name)
    except ValueError as error:
        raise HostfileError(
            f"{name!r} is not an IPv4 address ({error}); write four numbers of 0 to 255, without zeros in "
            "front"
        ) from None


def _keyed_slots(options: list[str]) -> int:
    match = _KEYED_COUNT.fullmatch(options[0])
    if match is None:
        raise HostfileError(
            f"{options[0][:80]!r} is not a slot count; write 'slots=8' with no spaces around '='"
        )
    slots = _slot_count(match[1])
    # Open MPI's ceiling on oversubscription: harmless where it allows the slots, contradictory below.
    if options[1:] and options[1:] not in ([f"max_slots={slots}"], [f"max-slots={slots}"]):
        raise HostfileError(
            f"{' '.join(options[1:])[:80]!r} is not understood after {options[0]!r}; delete it (comments "
            "begin with '#')"
        )
    return slots


def _slot_count(digits: str) -> int:
    # Length first: int() of thousands of digits is an error of its own.
    if len(digits) > 9 or not 1 <= int(digits) <= _MOST_SLOTS:
        raise HostfileError(
            f"{digits[:20]} slots; a host has 1 to {_MOST_SLOTS} (delete the line to leave the host out)"
        )
    return int(digits)


def _agreed_slots(slots: int | None, count: int | None) -> int:
    if count is None and slots is None:
        raise NoSlots("no slot count; write 'slots=8' after the name, or say how many slots each host has")
    if count is not None and slots is not None and count != slots:
        raise HostfileError(
            f"{count} slots where earlier hosts (or slots_per_host) have {slots}; launchers number local "
            f"ranks wrongly when hosts differ: give each host slots={min(count, slots)}, or use two files"
        )
    slots = count if count is not None else slots
    assert slots is not None
    return slots
