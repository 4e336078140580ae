"""The command lines that start a script on the hosts of a hostfile, and running them together under one
time-out.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, get_args

from lbtrain.errors import LaunchError
from lbtrain.launch.hostfile import Hostfile

Launcher = Literal["deepspeed", "accelerate", "colossalai", "torchrun", "slurm"]
LAUNCHERS: tuple[Launcher, ...] = get_args(Launcher)


def commands(
    launcher: Launcher, hosts: Hostfile, words: Sequence[str], *, hostfile: Path, port: int, timeout_s: int
) -> list[list[str]]:
    """Commands to run here, at once, so that `python words...` runs on every slot of `hosts`; `hostfile`
    holds the same hosts.
    """
    if launcher == "deepspeed" and hosts.names == ("localhost",):
        # Given a hostfile, DeepSpeed wants ssh even to this machine.
        return [["deepspeed", "--num_accelerators", str(hosts.slots), "--master_port", str(port), *words]]
    if launcher == "deepspeed":
        _check_deepspeed_quotes(words)
        far = [] if len(hosts.names) > 1 or _is_here(hosts.names[0]) else ["--force_multi"]
        return [
            [
                "deepspeed",
                "--hostfile",
                str(hostfile),
                "--launcher",
                "pdsh",
                *far,
                "--master_port",
                str(port),
                *words,
            ]
        ]
    if launcher == "colossalai":
        return [_colossalai(hosts, words, hostfile, port)]
    if launcher == "slurm":
        return [_slurm(hosts, words, port)]
    starters = [_starter(launcher, hosts, node, port) for node in range(len(hosts.names))]
    return [
        _on_host(name, [*starter, *words], timeout_s)
        for name, starter in zip(hosts.names, starters, strict=True)
    ]


def _check_deepspeed_quotes(words: Sequence[str]) -> None:
    """Over several hosts DeepSpeed puts words between single quotes as they are, and those that begin with a
    dash not even that.
    """
    for word in words:
        if "'" in word or (word.startswith("-") and word != shlex.quote(word)):
            raise LaunchError(
                f"{word}: deepspeed would hand this to a shell on each host; write it without single quotes "
                "and leading dash"
            )


def _colossalai(hosts: Hostfile, words: Sequence[str], hostfile: Path, port: int) -> list[str]:
    """`hostfile` is in its own dialect: bare names. It joins the words by spaces and hands the line to a
    shell on every host.
    """
    for word in words:
        if word != shlex.quote(word):
            raise LaunchError(
                f"{word}: colossalai would hand this to a shell on each host as it is; write it without "
                "spaces, quotes and the like"
            )
    place = (
        []
        if hosts.names == ("localhost",)
        else ["--hostfile", str(hostfile), "--master_addr", hosts.names[0]]
    )
    return [
        "colossalai",
        "run",
        *place,
        "--nproc_per_node",
        str(hosts.slots),
        "--master_port",
        str(port),
        *words,
    ]


def _starter(launcher: Launcher, hosts: Hostfile, node: int, port: int) -> list[str]:
    first = "127.0.0.1" if hosts.names == ("localhost",) else hosts.names[0]
    if launcher == "torchrun":
        place = [f"--nnodes={len(hosts.names)}", f"--nproc_per_node={hosts.slots}", f"--node_rank={node}"]
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *place,
            f"--master_addr={first}",
            f"--master_port={port}",
        ]
    # Not --cpu: accelerate then starts one process and says nothing.
    place = [
        "--multi_gpu",
        f"--num_machines={len(hosts.names)}",
        f"--num_processes={hosts.gpus}",
        f"--machine_rank={node}",
    ]
    defaults = ["--mixed_precision=no", "--dynamo_backend=no"]
    address = [f"--main_process_ip={first}", f"--main_process_port={port}"]
    return [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *(place if hosts.gpus > 1 else ["--num_processes=1"]),
        *address,
        *defaults,
    ]


def _on_host(name: str, command: Sequence[str], timeout_s: int) -> list[str]:
    """Through ssh, in this folder, ended by the host itself when its time is over: a signal here would not
    reach it.
    """
    if _is_here(name):
        return list(command)
    exported = [f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}"]
    inside = ["env", *exported, "timeout", "--kill-after=10", str(timeout_s), *command]
    return ["ssh", "-o", "BatchMode=yes", name, f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(inside)}"]


def _slurm(hosts: Hostfile, words: Sequence[str], port: int) -> list[str]:
    """srun inside an allocation; slurm's names of rank and size are mapped to torchrun's."""
    names = (
        "RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID "
        f"MASTER_ADDR={hosts.names[0]} MASTER_PORT={port}"
    )
    place = [
        f"--nodes={len(hosts.names)}",
        f"--ntasks-per-node={hosts.slots}",
        f"--nodelist={','.join(hosts.names)}",
    ]
    return [
        "srun",
        "--kill-on-bad-exit=1",
        *place,
        "bash",
        "-c",
        f"{names} exec {shlex.join([sys.executable, *words])}",
    ]


def _is_here(name: str) -> bool:
    return name in ("localhost", "127.0.0.1", socket.gethostname())


def run_together(started: Sequence[Sequence[str]], log: Path, *, timeout_s: int) -> str:
    """Run the commands at once, output to `log`; "ok", or why not. All are ended when one fails or time is
    over.
    """
    processes: list[subprocess.Popen[bytes]] = []
    with log.open("w", encoding="utf-8") as output:
        try:
            processes += [_start(command, output) for command in started]
            return _watch(processes, timeout_s)
        except FileNotFoundError as error:
            return f"there is no program {error.filename} here"
        finally:
            for process in processes:
                _end(process)


def _start(command: Sequence[str], output: IO[str]) -> subprocess.Popen[bytes]:
    # A launcher that is installed beside this Python is found whether or not its environment was activated.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, **streams, start_new_session=True, env=environment)  # type: ignore[call-overload]


def _watch(processes: Sequence[subprocess.Popen[bytes]], timeout_s: int) -> str:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed:
            return f"exit code {failed[0]}"
        if None not in codes:
            return "ok"
        time.sleep(0.1)
    return f"timed out after {timeout_s} s"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its children, which may outlive it: it leads a session of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
