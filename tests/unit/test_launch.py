"""The world that runs against the world that was asked for, by fabricated command lines."""

import os
import subprocess
import sys
import threading

import pytest

from lbtrain.errors import LaunchError
from lbtrain.launch import workers
from lbtrain.launch import world as launch_world
from lbtrain.launch.world import World, ancestor_commands, check_world, detect_world, start_process_group

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
    assert detect_world(task | LAUNCHED) == World(1, 2, 1, "ddp")
    assert detect_world({"SLURM_NTASKS": "8"}) == World(
        0, 1, 0, "ddp"
    )  # in the batch script itself, where nothing was started yet


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
    ],
)
def test_filters_may_leave_slots_out(tmp_path, filters):
    check_world(world(2), 0, deepspeed("--hostfile", hostfile(tmp_path), *filters))


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
def test_accelerate_that_started_one_process(count):
    command = ["python", "/venv/bin/accelerate", "launch", "--cpu", *count, "recipes/digits/digits.py"]
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
