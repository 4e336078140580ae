"""What a guard sees of other processes of its host, in /proc: whether they live, are stopped, and which of
them are launchers.
"""

from collections.abc import Iterator
from pathlib import Path

_LAUNCHERS = {
    "deepspeed",
    "torchrun",
    "accelerate",
    "torch.distributed.run",
    "deepspeed.launcher.launch",
    "accelerate.commands.launch",
}


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty where there is no such process, or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def process_state(pid: int) -> str:
    """The letter that the system gives it (T stopped, Z ended and not waited for); empty where there is no
    such process.
    """
    return next(iter(stat_of(pid)), "")


def start_of(pid: int) -> str:
    """When a living process started, to tell it from a later one of the same number; empty if it is gone."""
    fields = stat_of(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def launchers_of(pid: int) -> list[tuple[int, str]]:
    """The ancestors of a process that are launchers, and the runner of a launch over hosts if it runs on this
    one: pid and start.
    """
    found, words = [], []
    while (fields := stat_of(pid)) and (pid := int(fields[1])) > 1:
        command = command_of(pid)
        if {Path(word).name for word in command[:6]} & _LAUNCHERS:
            found.append(pid)
            words += [word for word in command if word.startswith("--world_info=")]
    for word in words[:1]:
        found += [other for pair in _runner(word) for other in pair]
    return [(number, start_of(number)) for number in dict.fromkeys(found) if number > 1]


def _runner(world_info: str) -> Iterator[tuple[int, int]]:
    """deepspeed over several hosts starts its launchers through ssh: only pdsh, with the same world in its
    words, is the runner's child.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        command = command_of(int(folder.name))
        if command and Path(command[0]).name == "pdsh" and any(world_info in word for word in command):
            fields = stat_of(int(folder.name))
            if fields and "pdsh" not in Path((command_of(int(fields[1])) or [""])[0]).name:
                yield int(folder.name), int(fields[1])


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
