"""The numbers that launchers give a process in variables, and whether they agree with each other and with the
tasks that srun, mpirun or the like started.
"""

import re
from collections.abc import Iterator, Mapping

from lbtrain.errors import LaunchError

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
_LAUNCHERS_STARTED = ("GROUP_WORLD_SIZE", "CROSS_SIZE")
"""How many torchruns, and how many of DeepSpeed's launchers, start ranks of this job: one a host."""


def number(environment: Mapping[str, str], name: str, default: int) -> int:
    """The value of a variable, `default` if it is not set. Raises LaunchError for any but a whole number."""
    text = environment.get(name, str(default))
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise LaunchError(f"{name}={text} is not a number: unset it, or start the script by a launcher")
    return int(text)


def rank_among_others(environment: Mapping[str, str]) -> int | None:
    """The rank of a process that has all it needs to find the others. None for a process alone, and for one
    whose variables are wrong or incomplete.
    """
    rank, size, port = (environment.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if not all(re.fullmatch("[0-9]{1,9}", text) for text in (rank, size, port)):
        return None
    found = environment.get("MASTER_ADDR") and int(rank) < int(size) and int(size) > 1
    return int(rank) if found else None


def local_rank(environment: Mapping[str, str]) -> int:
    """This rank among those of its host. Raises LaunchError if there are not as many."""
    rank = number(environment, "LOCAL_RANK", 0)
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        if rank < 0 or (name in environment and rank >= number(environment, name, 0)):
            raise LaunchError(
                f"LOCAL_RANK={rank} of {name}={environment.get(name, 'unset')}: the ranks of a host are "
                "numbered from 0; unset both for one process, or start the script by a launcher"
            )
    return rank


def check_tasks(environment: Mapping[str, str], world_size: int, *, elastic: bool) -> None:
    """Raises LaunchError where srun, mpirun or the like started several tasks that do not make up the world:
    each is a rank, or the launcher of a host's ranks. `elastic`: launchers may come and go.
    """
    if "RANK" not in environment:
        _check_one_task(environment)
        return
    launchers = next((name for name in _LAUNCHERS_STARTED if name in environment), "")
    if launchers and elastic:
        return
    expected = number(environment, launchers or "WORLD_SIZE", world_size)
    what = f"{launchers or 'WORLD_SIZE'}={expected}"
    for size, count in _several_tasks(environment):
        if count != expected:
            raise LaunchError(
                f"{_TASKS[size][0]} started {count} tasks, and {what}: each task would train in a world of "
                "its own. Start one task, one task a host with torchrun --nnodes=HOSTS "
                "--rdzv_endpoint=FIRST_HOST:29500, or every rank as a task: " + _as_ranks(size)
            )
    for name in _RANKS_ALONE:
        if number(environment, name, 0) >= expected:
            raise LaunchError(
                f"{name}={environment[name]}, and {what}: each of several tasks would train in a world of "
                f"its own; give them torchrun's names: {_names_of(name)}"
            )


def _check_one_task(environment: Mapping[str, str]) -> None:
    """Raises LaunchError where there are several tasks, which do not know of each other."""
    for size, count in _several_tasks(environment):
        raise LaunchError(
            f"{_TASKS[size][0]} started {count} tasks that would each train alone; give them torchrun's "
            f"names: {_as_ranks(size)}"
        )
    for name in _RANKS_ALONE:
        if number(environment, name, 0):
            raise LaunchError(
                f"{name}={environment[name]}: one of several tasks that would each train alone; give them "
                f"torchrun's names: {_names_of(name)}"
            )


def _several_tasks(environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """The variables that tell of more tasks than one, with their number."""
    for size in _TASKS:
        name = size
        if size == "SLURM_NTASKS":
            # It counts the tasks of the whole allocation in the batch script itself, where nothing was
            # started yet, and in the shell that salloc opens, which is a step of one task.
            if "SLURM_STEP_NUM_TASKS" in environment:
                name = "SLURM_STEP_NUM_TASKS"
            elif "SLURM_STEP_ID" not in environment:
                continue
        if (count := number(environment, name, 1)) != 1:
            yield size, count


def _as_ranks(size: str) -> str:
    starter, rank, local = _TASKS[size]
    return (
        f"{starter} bash -c 'RANK=${rank} WORLD_SIZE=${size} LOCAL_RANK=${local} MASTER_ADDR=FIRST_HOST "
        "MASTER_PORT=29500 exec python RECIPE.py'"
    )


def _names_of(rank: str) -> str:
    return f"RANK=${rank}, and WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
