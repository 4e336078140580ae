"""Which processes are running, who started them, and whether they are the ones that were asked for.

Launchers fail quietly (seen): `deepspeed --hostfile /not/there` warns and trains on this machine alone, and
so does `colossalai run` with a hostfile in which no host is; `accelerate launch --cpu --num_processes 2`
starts one process. The command line of the launcher is still there to be read, in the job's ancestors, so the
job compares (lbtrain.launch.commands).
"""

import contextlib
import datetime
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.distributed as dist

from lbtrain.errors import LaunchError, UserError, naming_the_extra, naming_the_shortage
from lbtrain.launch.commands import ancestor_commands, check_commands, option
from lbtrain.launch.variables import check_tasks, local_rank, number

_SECONDS_TO_WAIT = 600
_SECONDS_TO_LET_GO = 0.25


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
    rank, world_size = number(environment, "RANK", 0), number(environment, "WORLD_SIZE", 1)
    command = next(ancestor_commands(), []) if parent is None else parent
    if "RANK" in environment and "WORLD_SIZE" not in environment:
        raise LaunchError(
            f"RANK={rank} without WORLD_SIZE: unset it for one process, or start the script by a launcher"
        )
    if not 0 <= rank < world_size:
        raise LaunchError(
            f"RANK={rank} of WORLD_SIZE={world_size}: unset both for one process, or start the script by a "
            "launcher"
        )
    check_tasks(environment, world_size, elastic=_is_elastic(environment, command))
    if "CROSS_RANK" in environment or "DS_ACCELERATOR_LAUNCHED" in environment:
        launcher = "deepspeed"
    elif "ACCELERATE_MIXED_PRECISION" in environment:
        launcher = "accelerate"
    else:
        launcher = "colossalai" if _started_by_colossalai(environment, command) else "ddp"
    return World(rank, world_size, local_rank(environment), launcher)


def _is_elastic(environment: Mapping[str, str], parent: Sequence[str]) -> bool:
    """Whether torchrun was given a range of hosts, such as --nnodes=2:4, of which some may be away."""
    return ":" in (option(parent[2:], "--nnodes") or environment.get("PET_NNODES", ""))


def _started_by_colossalai(environment: Mapping[str, str], parent: Sequence[str]) -> bool:
    """`colossalai run` starts torchrun on every host, and leaves the same two traces on all: a variable, and
    how torchrun was called.
    """
    if environment.get("CUDA_DEVICE_MAX_CONNECTIONS") != "1":
        return False
    options = [word.partition("=")[0] for word in parent[2:7]]
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
    check_commands(world.world_size, ancestor_commands() if commands is None else commands)


def device_type() -> str:
    """What the ranks of this machine train on: cuda or cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def start_process_group(world: World) -> torch.device:
    """Joins the other ranks (alone: a group of one, so that the code is the same) and returns this rank's
    device.

    Raises LaunchError for a rank without a GPU of its own, and if the others do not come within ten minutes.
    """
    on_gpu = device_type() == "cuda"
    device = torch.device("cuda", world.local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        if world.local_rank >= (seen := torch.cuda.device_count()):
            raise LaunchError(
                f"rank {world.rank} has LOCAL_RANK={world.local_rank} and sees {seen} GPU(s) only: start as "
                "many ranks a host as it has GPUs, and let each of them see all"
            )
        if seen > 1 and world.world_size > 1 and "LOCAL_RANK" not in os.environ:
            raise LaunchError(
                f"rank {world.rank} sees {seen} GPUs and has no LOCAL_RANK, which says the one to use: "
                "set it to the rank's number on its host, such as LOCAL_RANK=$SLURM_LOCALID"
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
    _share_cores()
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
    """Divides the cores of a machine among its ranks: each core among those that may run on it, since Slurm
    gives some jobs' ranks cores of their own. torchrun sets one thread per rank; others leave every rank with
    all cores. Collective.
    """
    here = _host_and_cores()
    ranks: list[tuple[str, frozenset[int]]] = [here] * dist.get_world_size()
    if len(ranks) > 1:
        dist.all_gather_object(ranks, here)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads_of(here, ranks))


def threads_of(rank: tuple[str, frozenset[int]], ranks: Sequence[tuple[str, frozenset[int]]]) -> int:
    """How many threads a rank may have, at least one: its share of the cores. Each rank is given by its host
    and the cores that the system lets it run on.
    """
    host, cores = rank
    rivals = Counter(core for name, others in ranks if name == host for core in others)
    return max(1, int(sum(Fraction(1, rivals[core]) for core in cores)))


def _host_and_cores() -> tuple[str, frozenset[int]]:
    if hasattr(os, "sched_getaffinity"):
        return socket.gethostname(), frozenset(os.sched_getaffinity(0))
    return socket.gethostname(), frozenset(range(os.cpu_count() or 1))
