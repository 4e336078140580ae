"""The world that runs against the world that was asked for, by fabricated command lines."""

import os
import subprocess
import sys
import threading

import pytest

from lbtrain.errors import LaunchError
from lbtrain.launch import workers
from lbtrain.launch import world as launch_world
from lbtrain.launch.commands import ancestor_commands
from lbtrain.launch.variables import rank_among_others
from lbtrain.launch.world import World, check_world, detect_world, start_process_group, threads_of

LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
EXPORTED_BY_COLOSSALAI = LAUNCHED | {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
TORCHRUN_OF_COLOSSALAI = [
    "/venv/bin/python",
    "/venv/bin/torchrun",
    "--nproc_per_node=1",
    "--nnodes=2",
    "--node_rank=1",
    "--master_addr=node01",
    "--master_port=29500",
    "recipes/digits/digits.py",
    "batch_size=64",
]


def world(size: int) -> World:
    return World(0, size, 0, "ddp")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, World(0, 1, 0, "ddp")),
        (LAUNCHED, World(1, 2, 1, "ddp")),
        (LAUNCHED | {"CROSS_RANK": "0"}, World(1, 2, 1, "deepspeed")),
        (LAUNCHED | {"ACCELERATE_MIXED_PRECISION": "no"}, World(1, 2, 1, "accelerate")),
    ],
)
def test_the_world_by_its_variables(environment, expected):
    assert detect_world(environment) == expected


@pytest.mark.parametrize(
    ("environment", "parent", "launcher"),
    [
        (EXPORTED_BY_COLOSSALAI, TORCHRUN_OF_COLOSSALAI, "colossalai"),
        (LAUNCHED, TORCHRUN_OF_COLOSSALAI, "ddp"),
        (EXPORTED_BY_COLOSSALAI, ["python", "torchrun", "--nnodes=2", "--nproc_per_node=1", "x.py"], "ddp"),
        (EXPORTED_BY_COLOSSALAI, ["bash"], "ddp"),
        (EXPORTED_BY_COLOSSALAI | {"CROSS_RANK": "0"}, TORCHRUN_OF_COLOSSALAI, "deepspeed"),
    ],
)
def test_colossalai_run_by_the_traces_it_leaves_on_every_host(environment, parent, launcher):
    assert detect_world(environment, parent).launcher == launcher


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "1"},
        {"RANK": "0"},
        {"RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "2", "PMIX_RANK": "1"},
        {"RANK": "-1"},
        {"WORLD_SIZE": "0"},
        {"RANK": "a", "WORLD_SIZE": "2"},
        {"RANK": ""},
        LAUNCHED | {"LOCAL_RANK": "-1"},
        LAUNCHED | {"LOCAL_RANK": "5", "LOCAL_WORLD_SIZE": "2"},
        LAUNCHED | {"LOCAL_RANK": "2", "LOCAL_SIZE": "2"},
        LAUNCHED | {"LOCAL_WORLD_SIZE": ""},
        LAUNCHED | {"SLURM_STEP_ID": "0", "SLURM_NTASKS": ""},
        LAUNCHED | {"PMIX_RANK": "one"},
        {"PMI_SIZE": "all"},
    ],
)
def test_variables_that_contradict_each_other(environment):
    with pytest.raises(LaunchError) as caught:
        detect_world(environment)
    assert caught.value.exit_code == 3


def test_tasks_of_srun_without_ranks_get_the_command_to_type():
    task = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_PROCID": "3"}
    with pytest.raises(LaunchError, match=r"RANK=\$SLURM_PROCID"):
        detect_world(task)
    assert detect_world(task | LAUNCHED | {"WORLD_SIZE": "8"}) == World(1, 8, 1, "ddp")


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "8"},
        {"SLURM_NTASKS": "8", "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},
    ],
    ids=["a batch script", "the shell of salloc"],
)
def test_the_tasks_of_an_allocation_are_no_tasks_of_this_step(environment):
    assert detect_world(environment) == World(0, 1, 0, "ddp")
    assert detect_world(environment | LAUNCHED) == World(1, 2, 1, "ddp")


STEP = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}
TORCHRUN_OF_4 = ["python", "/venv/bin/torchrun", "--nnodes", "4", "--nproc_per_node", "8", "x.py"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (STEP | {"RANK": "0", "WORLD_SIZE": "1"}, "srun started 4 tasks, and WORLD_SIZE=1"),
        (STEP | {"RANK": "0", "WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "1"}, "4 tasks, and GROUP_WORLD_SIZE=1"),
        (STEP | {"RANK": "0", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1"}, "4 tasks, and GROUP_WORLD_SIZE=1"),
        (STEP | {"RANK": "0", "WORLD_SIZE": "8", "CROSS_SIZE": "1"}, "4 tasks, and CROSS_SIZE=1"),
        (LAUNCHED | {"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun started 4 tasks, and WORLD_SIZE=2.*OMPI_COMM_"),
        (LAUNCHED | {"PMIX_RANK": "3"}, "PMIX_RANK=3, and WORLD_SIZE=2"),
    ],
)
def test_tasks_that_each_train_in_a_world_of_their_own(environment, said):
    with pytest.raises(LaunchError, match=said):
        detect_world(environment, TORCHRUN_OF_4)


@pytest.mark.parametrize(
    ("environment", "torchrun"),
    [
        ({"WORLD_SIZE": "32", "GROUP_WORLD_SIZE": "4"}, TORCHRUN_OF_4),
        ({"WORLD_SIZE": "32", "CROSS_SIZE": "4"}, []),
        ({"WORLD_SIZE": "4"}, []),
        ({"WORLD_SIZE": "24", "GROUP_WORLD_SIZE": "3"}, ["python", "torchrun", "--nnodes=2:4", "x.py"]),
        ({"WORLD_SIZE": "24", "GROUP_WORLD_SIZE": "3", "PET_NNODES": "2:4"}, ["python", "torchrun", "x.py"]),
    ],
    ids=[
        "a torchrun a host",
        "DeepSpeed's launcher a host",
        "a rank a task",
        "elastic",
        "elastic by PET_NNODES",
    ],
)
def test_tasks_that_make_up_the_world(environment, torchrun):
    ranks = STEP | {"RANK": "2", "LOCAL_RANK": "0"} | environment
    assert detect_world(ranks, torchrun).world_size == int(environment["WORLD_SIZE"])


RENDEZVOUS = LAUNCHED | {"MASTER_ADDR": "node01", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("changes", "rank"),
    [
        ({}, 1),
        ({"RANK": "0"}, 0),
        ({"RANK": "2"}, None),
        ({"RANK": ""}, None),
        ({"WORLD_SIZE": "two"}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"MASTER_ADDR": ""}, None),
        ({"MASTER_PORT": ""}, None),
    ],
)
def test_a_rank_that_can_find_the_others(changes, rank):
    assert rank_among_others(RENDEZVOUS | changes) == rank


@pytest.mark.parametrize(
    ("ranks", "threads"),
    [
        ([("a", range(32))] * 8, 4),
        ([("a", range(32))] * 8 + [("b", range(32))] * 2, 4),
        ([("a", range(16 * rank, 16 * rank + 16)) for rank in range(8)], 16),
        ([("a", range(30))] * 7, 4),
        ([("a", range(2))] * 8, 1),
        ([("a", range(8)), ("a", range(4))], 6),
    ],
    ids=["shared", "two hosts", "bound by Slurm", "uneven", "too many ranks", "overlapping"],
)
def test_cores_are_divided_among_the_ranks_that_may_use_them(ranks, threads):
    ranks = [(host, frozenset(cores)) for host, cores in ranks]
    assert threads_of(ranks[0], ranks) == threads


def test_another_world_size_than_the_recipes():
    with pytest.raises(LaunchError, match="world_size=8 was asked for, but 2 processes run"):
        check_world(world(2), 8, [])
    check_world(world(8), 8, [])
    check_world(world(8), 0, [])


def hostfile(tmp_path, slots: int = 2) -> str:
    path = tmp_path / "hosts"
    path.write_text(f"node01 slots={slots}\nnode02 slots={slots}\n")
    return str(path)


def deepspeed(*options: str) -> list[list[str]]:
    return [
        ["/usr/bin/python3", "/venv/bin/deepspeed", *options, "recipes/digits/digits.py", "batch_size=64"]
    ]


@pytest.mark.parametrize(
    "form", [["--hostfile", "/not/there"], ["-H", "/not/there"], ["--hostfile=/not/there"]]
)
def test_a_hostfile_that_is_not_there(form):
    with pytest.raises(
        LaunchError,
        match="--hostfile /not/there: no such file, and deepspeed went on with this machine alone",
    ):
        check_world(world(2), 0, deepspeed(*form))


@pytest.mark.parametrize(
    "launcher",
    [["/venv/bin/ds"], ["/venv/bin/deepspeed.pt"], ["-m", "deepspeed.launcher.runner"], ["-u", "ds"]],
)
@pytest.mark.parametrize(
    "form",
    [
        ["--hostf", "/not/there"],
        ["--hos=/not/there"],
        ["-H/not/there"],
        ["--hostfile", "hosts", "--hostfile", "/not/there"],
    ],
)
def test_any_entry_point_of_deepspeed_with_options_as_argparse_reads_them(launcher, form):
    command = ["python", *launcher, *form, "recipes/digits/digits.py"]
    with pytest.raises(LaunchError, match="--hostfile /not/there: no such file"):
        check_world(world(1), 0, [["bash"], command])


def test_the_process_that_deepspeed_starts_on_each_host_is_not_its_launcher():
    check_world(
        world(2), 0, [["python", "-m", "deepspeed.launcher.launch", "--hostfile", "/not/there", "x.py"]]
    )


@pytest.mark.parametrize("form", ["--hostfile {}", "-H {}", "--hostfile={}"])
def test_a_hostfile_with_other_slots(tmp_path, form):
    options = form.format(hostfile(tmp_path)).split()
    with pytest.raises(LaunchError, match="has 4 slots, but 2 ranks run"):
        check_world(world(2), 0, deepspeed(*options))
    check_world(world(4), 0, deepspeed(*options))


def test_a_hostfile_that_cannot_be_read(tmp_path):
    (tmp_path / "hosts").write_text("node01 slots=8x\n")
    with pytest.raises(LaunchError, match="line 1"):
        check_world(world(8), 0, deepspeed("--hostfile", str(tmp_path / "hosts")))


@pytest.mark.parametrize(
    "filters",
    [
        ["--include", "node01"],
        ["--exclude=node02"],
        ["-i", "node01:0,1"],
        ["--num_nodes", "1"],
        ["--num_gpus", "1"],
        ["--num_accelerators=1"],
        ["-inode01"],
        ["--incl", "node01"],
        ["--num_n", "1"],
    ],
)
def test_filters_may_leave_slots_out(tmp_path, filters):
    check_world(world(2), 0, deepspeed("--hostfile", hostfile(tmp_path), *filters))


def test_the_value_of_another_option_is_no_filter(tmp_path):
    with pytest.raises(LaunchError, match="has 4 slots, but 2 ranks run"):
        check_world(world(2), 0, deepspeed("--launcher_args", "-i /key", "--hostfile", hostfile(tmp_path)))


def test_a_script_argument_that_looks_like_a_filter_hides_nothing(tmp_path):
    command = deepspeed("--hostfile", hostfile(tmp_path))[0] + ["-e", "--include=x"]
    with pytest.raises(LaunchError, match="has 4 slots, but 2 ranks run"):
        check_world(world(2), 0, [command])


def test_without_a_hostfile_there_is_nothing_to_compare():
    check_world(world(2), 0, deepspeed("--num_accelerators", "2"))
    check_world(world(2), 0, [["bash"], ["sshd"], []])


def colossalai(*options: str) -> list[list[str]]:
    return [
        [
            "/venv/bin/python",
            "/venv/bin/colossalai",
            "run",
            *options,
            "recipes/digits/digits.py",
            "batch_size=64",
        ]
    ]


def test_colossalai_with_a_hostfile_of_no_hosts(tmp_path):
    """It goes on with this machine alone."""
    (tmp_path / "hosts").write_text("\n")
    with pytest.raises(LaunchError, match="no host in it") as caught:
        check_world(world(2), 0, colossalai("--hostfile", str(tmp_path / "hosts"), "--nproc_per_node", "2"))
    assert caught.value.exit_code == 3


def test_colossalai_on_other_hosts_than_the_hostfiles(tmp_path):
    (tmp_path / "hosts").write_text("node01\nnode02\n")
    command = colossalai("--hostfile", str(tmp_path / "hosts"), "--nproc_per_node=2")
    check_world(world(4), 0, command)
    with pytest.raises(LaunchError, match="asks for 4 ranks, but 2 run"):
        check_world(world(2), 0, command)
    check_world(
        world(2),
        0,
        colossalai("--hostfile", str(tmp_path / "hosts"), "--nproc_per_node=2", "--include", "node01"),
    )
    check_world(world(2), 0, colossalai("--nproc_per_node=2"))


def test_colossalai_without_its_hostfile():
    with pytest.raises(LaunchError, match="cannot be read"):
        check_world(world(2), 0, colossalai("--hostfile", "/not/there", "--nproc_per_node", "2"))


@pytest.mark.parametrize("count", [["--num_processes", "2"], ["--num_processes=2"], ["--num-processes", "2"]])
@pytest.mark.parametrize(
    "launcher",
    [
        ["/venv/bin/accelerate", "launch"],
        ["/venv/bin/accelerate-launch"],
        ["-m", "accelerate.commands.launch"],
        ["-m", "accelerate.commands.accelerate_cli", "launch"],
    ],
)
def test_accelerate_that_started_one_process(launcher, count):
    command = ["python", *launcher, "--cpu", *count, "recipes/digits/digits.py"]
    with pytest.raises(
        LaunchError,
        match=(
            r"asked for 2 processes and started 1\..*accelerate launch --multi_gpu --num_processes "
            r"2.*torchrun"
        ),
    ):
        check_world(world(1), 0, [command])
    check_world(world(2), 0, [command])


def test_options_behind_the_script_are_the_scripts():
    check_world(
        world(1),
        0,
        [["python", "/venv/bin/accelerate", "launch", "recipes/digits/digits.py", "--num_processes", "2"]],
    )
    check_world(
        world(1), 0, deepspeed() and [["python", "/venv/bin/deepspeed", "x.py", "--hostfile", "/not/there"]]
    )


def test_ancestors_begin_with_the_parent():
    commands = list(ancestor_commands())
    assert all(isinstance(word, str) for command in commands for word in command)
    assert len(commands) >= 1


def test_a_rank_without_a_gpu_of_its_own_is_named(monkeypatch):
    """Four ranks on a host of two GPUs, or one GPU that each task of srun sees."""
    monkeypatch.setattr(launch_world, "device_type", lambda: "cuda")
    monkeypatch.setattr(launch_world.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LaunchError, match=r"rank 5 has LOCAL_RANK=2 and sees 2 GPU\(s\) only"):
        start_process_group(World(5, 8, 2, "ddp"))


def test_a_rank_that_does_not_know_its_gpu_is_named(monkeypatch):
    monkeypatch.setattr(launch_world, "device_type", lambda: "cuda")
    monkeypatch.setattr(launch_world.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(LaunchError, match=r"rank 1 sees 2 GPUs and has no LOCAL_RANK.*LOCAL_RANK=\$SLURM_L"):
        start_process_group(World(1, 2, 0, "ddp"))


@pytest.mark.parametrize("refused", [False, True])
def test_a_loader_process_ends_with_its_rank_and_not_before(monkeypatch, refused):
    """Also where the system does not tell of a process's end: an old kernel, a container that forbids it."""

    def forbidden(pid):
        raise PermissionError("pidfd_open")

    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(workers, "_PATIENCE", 0.02)
    if refused:
        monkeypatch.setattr(os, "pidfd_open", forbidden)
    rank = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    workers._end_with(rank.pid, 0)
    assert not ended.wait(0.2)
    rank.communicate(b"\n")
    assert ended.wait(20)
