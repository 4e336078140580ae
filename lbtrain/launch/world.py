"""Which processes are running, who started them, and whether they are the ones that were asked for.

Launchers fail quietly (seen): `deepspeed --hostfile /not/there` warns and trains on this machine alone, and
so does `colossalai run` with a hostfile in which no host is; `accelerate launch --cpu --num_processes 2`
starts one process. The command line of the launcher is still there to be read, in the job's ancestors, so the
job compares.
"""

import contextlib
import datetime
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import yaml

from lbtrain.errors import LaunchError, UserError, naming_the_extra, naming_the_shortage
from lbtrain.launch.hostfile import HostfileError, read_hostfile

_DEEPSPEED_FILTERS = ("--include", "-i", "--exclude", "-e", "--num_nodes", "--num_gpus", "--num_accelerators")
_COLOSSALAI_FILTERS = ("--include", "--exclude", "--num_nodes")
_SECONDS_TO_WAIT = 600
_SECONDS_TO_LET_GO = 0.25
_TASKS = {
    "SLURM_NTASKS": ("srun", "SLURM_PROCID", "SLURM_LOCALID"),
    "OMPI_COMM_WORLD_SIZE": ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MV2_COMM_WORLD_SIZE": ("mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
    "PMI_SIZE": ("mpiexec", "PMI_RANK", "MPI_LOCALRANKID"),
    "JSM_NAMESPACE_SIZE": ("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK"),
    "FLUX_JOB_SIZE": ("flux run", "FLUX_TASK_RANK", "FLUX_TASK_LOCAL_ID"),
}
"""The variable with the number of tasks, what starts them, and the variables of rank and local rank."""
_RANKS_ALONE = ("PMIX_RANK", "PALS_RANKID", "ALPS_APP_PE")
"""Ranks of starters that say no number of tasks: of PMIx, Cray's PALS and ALPS."""


@dataclass(frozen=True)
class World:
    """This process among the ones that were launched together. `launcher` is the engine that fits it."""

    rank: int
    world_size: int
    local_rank: int
    launcher: str


def detect_world(environment: Mapping[str, str] = os.environ, parent: Sequence[str] | None = None) -> World:
    """From the variables that every launcher sets (torchrun's names). Raises LaunchError if they contradict
    each other.

    `parent` is the command line of the process's parent (read from the system if not given).
    """
    try:
        rank, world_size, local_rank = (
            int(environment.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
    except ValueError as error:
        raise LaunchError(f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers: {error}") from error
    if "RANK" not in environment:
        _check_one_task(environment)
    elif "WORLD_SIZE" not in environment:
        raise LaunchError(
            f"RANK={rank} without WORLD_SIZE: unset it for one process, or start the script by a launcher"
        )
    if not 0 <= rank < world_size:
        raise LaunchError(
            f"RANK={rank} of WORLD_SIZE={world_size}: unset both for one process, or start the script by a "
            "launcher"
        )
    if "CROSS_RANK" in environment or "DS_ACCELERATOR_LAUNCHED" in environment:
        launcher = "deepspeed"
    elif "ACCELERATE_MIXED_PRECISION" in environment:
        launcher = "accelerate"
    else:
        launcher = "colossalai" if _started_by_colossalai(environment, parent) else "ddp"
    return World(rank, world_size, local_rank, launcher)


def _check_one_task(environment: Mapping[str, str]) -> None:
    """Raises LaunchError where srun, mpirun or the like started several tasks, which do not know of each
    other.
    """
    for size, (starter, rank, local_rank) in _TASKS.items():
        if size == "SLURM_NTASKS" and "SLURM_STEP_ID" not in environment:
            continue  # in the batch script itself, where nothing was started yet
        if environment.get(size, "1") != "1":
            raise LaunchError(
                f"{starter} started {environment[size]} tasks that would each train alone; give them "
                f"torchrun's names: {starter} bash -c 'RANK=${rank} WORLD_SIZE=${size} "
                f"LOCAL_RANK=${local_rank} MASTER_ADDR=FIRST_HOST MASTER_PORT=29500 exec python RECIPE.py'"
            )
    for name in _RANKS_ALONE:
        if environment.get(name, "0") != "0":
            raise LaunchError(
                f"{name}={environment[name]}: one of several tasks that would each train alone; give them "
                f"torchrun's names: RANK=${name}, and WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
            )


def _started_by_colossalai(environment: Mapping[str, str], parent: Sequence[str] | None) -> bool:
    """`colossalai run` starts torchrun on every host, and leaves the same two traces on all: a variable, and
    how torchrun was called.
    """
    if environment.get("CUDA_DEVICE_MAX_CONNECTIONS") != "1":
        return False
    command = next(ancestor_commands(), []) if parent is None else parent
    options = [word.partition("=")[0] for word in command[2:7]]
    return options == ["--nproc_per_node", "--nnodes", "--node_rank", "--master_addr", "--master_port"]


def check_world(
    world: World, expected_world_size: int, commands: Sequence[Sequence[str]] | None = None
) -> None:
    """Raises LaunchError where the world is not the one that the recipe or a launcher's command line asked
    for.

    `commands` are the command lines of the process's ancestors, nearest first (read from the system if not
    given).
    """
    if expected_world_size and expected_world_size != world.world_size:
        raise LaunchError(
            f"world_size={expected_world_size} was asked for, but {world.world_size} "
            f"{'process runs' if world.world_size == 1 else 'processes run'}: check the launcher's "
            "--hostfile and number of processes"
        )
    for command in ancestor_commands() if commands is None else commands:
        names = [Path(word).name for word in command[:4]]
        if "deepspeed" in names:
            _check_deepspeed(world, command)
        elif any(name.partition(".")[0] == "accelerate" for name in names) and "launch" in "".join(names):
            _check_accelerate(world, command)
        elif "colossalai" in names and "run" in command:
            _check_colossalai(world, command)


def _check_deepspeed(world: World, command: Sequence[str]) -> None:
    hostfile = _option(command, "--hostfile", "-H")
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
    filtered = _option(command, *_DEEPSPEED_FILTERS) is not None
    if slots != world.world_size and not filtered:
        raise LaunchError(
            f"--hostfile {hostfile} has {slots} slots, but {world.world_size} ranks run; see the launcher's "
            "warnings above"
        )


def _check_colossalai(world: World, command: Sequence[str]) -> None:
    hostfile, per_host = _option(command, "--hostfile"), _option(command, "--nproc_per_node")
    if hostfile is None or per_host is None or not per_host.isdigit():
        return
    try:
        ranks = read_hostfile(hostfile, slots_per_host=int(per_host)).gpus
    except HostfileError as error:
        raise LaunchError(
            f"colossalai run --hostfile {hostfile} went on with what it found: {error}"
        ) from error
    filtered = _option(command, *_COLOSSALAI_FILTERS) is not None
    if ranks != world.world_size and not filtered:
        raise LaunchError(
            f"--hostfile {hostfile} with --nproc_per_node {per_host} asks for {ranks} ranks, but "
            f"{world.world_size} run; see what colossalai run printed above"
        )


def _check_accelerate(world: World, command: Sequence[str]) -> None:
    asked = _option(command, "--num_processes", "--num-processes") or _configured_processes(command)
    if asked is None or not asked.isdigit() or int(asked) == world.world_size:
        return
    raise LaunchError(
        f"accelerate launch was asked for {asked} processes and started {world.world_size}. "
        f"{asked} ranks on CPUs: accelerate launch --multi_gpu --num_processes {asked} SCRIPT (without "
        "--cpu, and without use_cpu: true in its config file; no GPU is needed), "
        f"or torchrun --nproc_per_node {asked} SCRIPT"
    )


def _configured_processes(command: Sequence[str]) -> str | None:
    """What accelerate's config file says, which `accelerate launch` reads unless it is told --cpu."""
    from accelerate.commands.config.config_args import default_config_file

    named = _option(command, "--config_file", "--config-file")
    path = Path(named or default_config_file)
    if (not named and "--cpu" in command) or not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None  # accelerate has read it otherwise, or not started
    asked = content.get("num_processes") if isinstance(content, dict) else None
    return str(asked) if isinstance(asked, int) and asked > 0 else None


def _option(command: Sequence[str], *names: str) -> str | None:
    """The value of an option in `--name value` or `--name=value` form; only what stands before the script is
    the launcher's.
    """
    for position, word in enumerate(command[2:], 2):
        name, separator, value = word.partition("=")
        if name in names:
            return value if separator else next(iter(command[position + 1 :]), "")
        if word.endswith(".py"):
            break
    return None


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


def device_type() -> str:
    """What the ranks of this machine train on: cuda or cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def start_process_group(world: World) -> torch.device:
    """Joins the other ranks (alone: a group of one, so that the code is the same) and returns this rank's
    device.

    Raises LaunchError if the others do not come within ten minutes.
    """
    _share_cores()
    on_gpu = device_type() == "cuda"
    device = torch.device("cuda", world.local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        if world.local_rank >= (seen := torch.cuda.device_count()):
            raise LaunchError(
                f"rank {world.rank} has LOCAL_RANK={world.local_rank} and sees {seen} GPU(s) only: start as "
                "many ranks a host as it has GPUs, and let each of them see all"
            )
        torch.cuda.set_device(device)
    if dist.is_initialized():
        return device
    backend, patience = ("nccl" if on_gpu else "gloo"), datetime.timedelta(seconds=_SECONDS_TO_WAIT)
    try:
        if world.world_size == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend, timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise LaunchError(
            f"rank {world.rank} of {world.world_size} could not join the others: {error}"
        ) from error
    return device


def leave_process_group() -> None:
    """Ends the exchange threads, if there are any, before the interpreter goes, which would otherwise abort.

    A thread of gloo lets go of the last exchange's tensor after the exchange is done, and needs the
    interpreter's lock for that. Groups that nothing refers to any more end their threads here; those that
    DeepSpeed keeps do not, so the lock is theirs for a moment: one that asked for it while the interpreter
    went aborted one in ten ends of `tools.verify` under ZeRO-2.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        let_exchanges_end()


@contextlib.contextmanager
def ending_exchanges() -> Iterator[None]:
    """Around what a rank does: a missing package or too little of something is named, and the exchange
    threads end before the interpreter goes, after an error too.
    """
    try:
        with naming_the_extra(), naming_the_shortage():
            yield
    except UserError:
        let_exchanges_end()
        raise
    leave_process_group()


def let_exchanges_end() -> None:
    """Leaves the interpreter to the exchange threads for a moment; for an end by an error, where the group
    itself may be beyond ending.
    """
    time.sleep(_SECONDS_TO_LET_GO)


def _share_cores() -> None:
    """Divides this machine's cores among its ranks. torchrun sets one thread per rank; deepspeed leaves every
    rank with all cores.
    """
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", 1)))
    if ranks_here > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))
