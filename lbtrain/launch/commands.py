"""The command lines of launchers, which are still there to be read in a job's ancestors: what they asked for
is compared with the ranks that run.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from lbtrain.errors import LaunchError
from lbtrain.launch.hostfile import HostfileError, read_hostfile

_DEEPSPEED_FILTERS = ("--include", "-i", "--exclude", "-e", "--num_nodes", "--num_gpus", "--num_accelerators")
_COLOSSALAI_FILTERS = ("--include", "--exclude", "--num_nodes")


def check_commands(world_size: int, commands: Iterable[Sequence[str]]) -> None:
    """Raises LaunchError where the command line of a launcher has asked for other ranks than run."""
    for command in commands:
        for position, word in enumerate(command[:4]):
            launcher, sub_command = _ENTRY_POINTS.get(Path(word).name, (None, ""))
            words = command[position + 1 :]
            if launcher and sub_command in ("", *words[:1]):
                launcher(world_size, words[1:] if sub_command else words)
                break


def _check_deepspeed(world_size: int, words: Sequence[str]) -> None:
    hostfile = option(words, "--hostfile", "-H")
    if hostfile is None:
        return
    if not Path(hostfile).is_file():
        raise LaunchError(
            f"--hostfile {hostfile}: no such file, and deepspeed went on with this machine alone; give the "
            "path of a hostfile"
        )
    try:
        slots = read_hostfile(hostfile).gpus
    except HostfileError as error:
        raise LaunchError(f"--hostfile {hostfile}: {error}") from error
    filtered = option(words, *_DEEPSPEED_FILTERS) is not None
    if slots != world_size and not filtered:
        raise LaunchError(
            f"--hostfile {hostfile} has {slots} slots, but {world_size} ranks run; see the launcher's "
            "warnings above"
        )


def _check_colossalai(world_size: int, words: Sequence[str]) -> None:
    hostfile, per_host = option(words, "--hostfile"), option(words, "--nproc_per_node")
    if hostfile is None or per_host is None or not per_host.isdigit():
        return
    try:
        ranks = read_hostfile(hostfile, slots_per_host=int(per_host)).gpus
    except HostfileError as error:
        raise LaunchError(
            f"colossalai run --hostfile {hostfile} went on with what it found: {error}"
        ) from error
    filtered = option(words, *_COLOSSALAI_FILTERS) is not None
    if ranks != world_size and not filtered:
        raise LaunchError(
            f"--hostfile {hostfile} with --nproc_per_node {per_host} asks for {ranks} ranks, but "
            f"{world_size} run; see what colossalai run printed above"
        )


def _check_accelerate(world_size: int, words: Sequence[str]) -> None:
    asked = option(words, "--num_processes", "--num-processes") or _configured_processes(words)
    if asked is None or not asked.isdigit() or int(asked) == world_size:
        return
    raise LaunchError(
        f"accelerate launch was asked for {asked} processes and started {world_size}. "
        f"{asked} ranks on CPUs: accelerate launch --multi_gpu --num_processes {asked} SCRIPT (without "
        "--cpu, and without use_cpu: true in its config file; no GPU is needed), "
        f"or torchrun --nproc_per_node {asked} SCRIPT"
    )


def _configured_processes(words: Sequence[str]) -> str | None:
    """What accelerate's config file says, which `accelerate launch` reads unless it is told --cpu."""
    from accelerate.commands.config.config_args import default_config_file

    named = option(words, "--config_file", "--config-file")
    path = Path(named or default_config_file)
    if (not named and "--cpu" in words) or not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None  # accelerate has read it otherwise, or not started
    asked = content.get("num_processes") if isinstance(content, dict) else None
    return str(asked) if isinstance(asked, int) and asked > 0 else None


_ENTRY_POINTS: dict[str, tuple[Callable[[int, Sequence[str]], None], str]] = {
    **dict.fromkeys(("deepspeed", "deepspeed.pt", "ds", "deepspeed.launcher.runner"), (_check_deepspeed, "")),
    **dict.fromkeys(("accelerate", "accelerate.commands.accelerate_cli"), (_check_accelerate, "launch")),
    **dict.fromkeys(("accelerate-launch", "accelerate.commands.launch"), (_check_accelerate, "")),
    **dict.fromkeys(("colossalai", "colossalai.cli.cli"), (_check_colossalai, "run")),
}
"""Console scripts and modules of launchers, each with its check and the command that has to follow."""


def option(words: Sequence[str], *names: str) -> str | None:
    """The value of an option among a launcher's words, in any form that argparse reads: `--name value`,
    `--name=value`, `-nvalue`, or the name cut short. The launcher has started, so a short form means one
    option; the last of several counts. What follows the script is the script's.
    """
    found = None
    for position, word in enumerate(words):
        name, separator, value = word.partition("=")
        if name in names or (len(name) > 2 and any(full.startswith(name) for full in names)):
            found = value if separator else next(iter(words[position + 1 :]), "")
        elif word[:2] in names and " " not in word:  # with a space it is a value
            found = word[2:]
        elif word.endswith(".py"):
            break
    return found


def ancestor_commands() -> Iterator[list[str]]:
    """The command lines of this process's ancestors, nearest first; none where the system does not tell (no
    /proc).
    """
    pid = os.getppid()
    while pid > 1:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        yield command
        pid = int(status.rpartition(")")[2].split()[1])
