"""Every variable and every key that launchers and engines read has its line in the tables of
lbtrain.launch.environment, and the lines act.
"""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from lbtrain.errors import LaunchError
from lbtrain.launch.environment import (
    ACCELERATE_KEYS,
    DEEPSPEED_KEYS,
    VARIABLES,
    Setting,
    check_environment,
    own_arguments,
    setting_of,
)
from lbtrain.launch.world import World, check_world, detect_world
from tests.variables import variables_read_in

DOCS = (Path(__file__).parents[2] / "docs/engines.md").read_text()
LIBRARIES = {"accelerate": ("test_utils",), "deepspeed": (), "torch.distributed": ()}


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec and spec.origin
    return Path(spec.origin).parent


@pytest.mark.parametrize("package", LIBRARIES)
def test_every_variable_that_a_library_reads_is_in_the_table(package):
    read = variables_read_in(_folder(package), skip=LIBRARIES[package])
    assert len(read) > 40
    assert {name: file for name, file in read.items() if setting_of(name, VARIABLES) is None} == {}


def test_every_option_that_torchrun_takes_from_the_environment_is_in_the_table():
    options = [
        option.dest
        for option in get_args_parser()._actions
        if type(option).__module__.endswith("argparse_util")
    ]
    assert len(options) > 20
    found = {setting_of(f"PET_{option.upper()}", VARIABLES) for option in options}
    assert [setting and setting.outcome for setting in found] == ["followed"]


def test_the_enumeration_sees_each_way_to_read_a_variable(tmp_path):
    (tmp_path / "x.py").write_text(
        'import os\nNAME = "BY_NAME"\nprefix = "PRE_"\n'
        'os.environ["ITEM"]; os.environ.get("GET", "1"); os.getenv("GETENV"); "CONTAINED" in os.environ\n'
        'get_int_from_env(["FIRST", "SECOND"], 1); os.environ[NAME]; os.environ[prefix + "FIX"] = "1"\n'
    )
    assert set(variables_read_in(tmp_path)) == {
        "ITEM", "GET", "GETENV", "CONTAINED", "FIRST", "SECOND", "BY_NAME", "PRE_FIX",
    }  # fmt: skip


def test_every_key_of_an_accelerate_config_file_is_in_the_table():
    from accelerate.commands.config.config_args import ClusterConfig

    keys = [field.name for field in dataclasses.fields(ClusterConfig)]
    assert len(keys) > 25
    assert [key for key in keys if setting_of(key, ACCELERATE_KEYS) is None] == []


@pytest.mark.parametrize("settings", [VARIABLES, ACCELERATE_KEYS, DEEPSPEED_KEYS])
def test_the_table_of_the_docs_is_the_one_in_the_code(settings):
    lines = [
        f"| {' '.join(f'`{name}`' for name in setting.names.split())} | {setting.outcome} | {setting.why} |"
        for setting in settings
    ]
    missing = [line for line in lines if line not in DOCS]
    assert missing == [], "docs/engines.md lacks these lines"
    assert {setting.outcome for setting in settings} == {"followed", "rejected", "no effect"}


def test_no_name_stands_in_two_lines():
    names = [name for setting in VARIABLES for name in setting.names.split() if "*" not in name]
    assert len(names) == len(set(names)) > 90


def check(device: str = "cpu", precision: str = "fp32", **environment: str) -> None:
    check_environment(environment, precision=precision, device=device)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "micro_batch_size=N"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "0", "micro_batch_size=N"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1.0", r"optimizer\.clip_norm"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "precision=bf16"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "precision=bf16"),
        ("ACCELERATE_USE_DEEPSPEED", "true", r"deepspeed RECIPE\.py"),
        ("ACCELERATE_USE_FSDP", "True", r"deepspeed\.zero_stage=3"),
        ("ACCELERATE_USE_MEGATRON_LM", "1", "--multi_gpu"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "--multi_gpu"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend"),
        ("ACCELERATE_TORCH_DEVICE", "cuda", "CUDA_VISIBLE_DEVICES="),
        ("NVIDIA_TF32_OVERRIDE", "0", "unset it.*deterministic=true"),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1", "unset"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", "unset"),
        ("DS_ACCELERATOR", "cuda", "unset"),
    ],
)
def test_what_would_change_the_arithmetic_is_rejected_with_a_remedy(name, value, remedy):
    with pytest.raises(LaunchError, match=f"{name}={value} in the environment: .*{remedy}") as caught:
        check(**{name: value})
    assert caught.value.exit_code == 3


def test_a_launcher_that_agrees_with_the_recipe_is_followed():
    check(ACCELERATE_MIXED_PRECISION="bf16", precision="bf16")
    check(ACCELERATE_MIXED_PRECISION="no", precision="bf16")  # what it says where nobody asked for anything
    check(ACCELERATE_USE_CPU="True", DS_ACCELERATOR="cpu", ACCELERATE_TORCH_DEVICE="cpu")
    check(ACCELERATE_USE_CPU="False", device="cuda")
    check(ACCELERATE_GRADIENT_ACCUMULATION_STEPS="1", ACCELERATE_USE_FSDP="false", NVIDIA_TF32_OVERRIDE="1")
    check(FSDP_SHARDING_STRATEGY="1", ACCELERATE_DYNAMO_BACKEND="NO", ONEDNN_DEFAULT_FPMATH_MODE="STRICT")
    for word in ("True", "1", "yes", "on"):  # as accelerate reads them
        check(ACCELERATE_USE_CPU=word)
        with pytest.raises(LaunchError, match=rf"ACCELERATE_USE_CPU={word}.*CUDA_VISIBLE_DEVICES="):
            check(ACCELERATE_USE_CPU=word, device="cuda")


def test_a_name_is_covered_by_itself_or_a_pattern():
    assert Setting("A B_*", "no effect", "").covers("B_C") and not Setting("A B_*", "", "").covers("AB")
    assert setting_of("ACCELERATE_SOMETHING_NEW", VARIABLES) is None


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, r"mpirun.*RANK=\$OMPI_COMM_WORLD_RANK"),
        ({"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1"}, r"mpirun.*RANK=\$MV2_COMM_WORLD_RANK"),
        (
            {"PMI_SIZE": "4", "PMI_RANK": "3"},
            r"mpiexec started 4 tasks.*RANK=\$PMI_RANK WORLD_SIZE=\$PMI_SIZE",
        ),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}, r"srun.*RANK=\$SLURM_PROCID"),
        (
            {"JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_RANK": "0"},
            r"jsrun started 2 tasks.*RANK=\$JSM_NAMESPACE_RANK WORLD_SIZE=\$JSM_NAMESPACE_SIZE",
        ),
        (
            {"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "1"},
            r"flux run started 2 .*LOCAL_RANK=\$FLUX_TASK_LOCAL_ID",
        ),
        ({"PMIX_RANK": "1"}, r"PMIX_RANK=1: one of several tasks.*RANK=\$PMIX_RANK"),
        ({"PALS_RANKID": "3", "PMIX_RANK": "0"}, r"PALS_RANKID=3: one of several tasks"),
        ({"ALPS_APP_PE": "1"}, r"ALPS_APP_PE=1: one of several tasks"),
    ],
)
def test_tasks_that_do_not_know_of_each_other(environment, said):
    with pytest.raises(LaunchError, match=said):
        detect_world(environment)
    tasks = next((count for name, count in environment.items() if name.endswith(("SIZE", "NTASKS"))), "4")
    launched = {"RANK": "1", "WORLD_SIZE": tasks, "LOCAL_RANK": "1"}
    assert detect_world(environment | launched) == World(1, int(tasks), 1, "ddp")
    alone = {name: "1" if name.endswith(("SIZE", "NTASKS")) else "0" for name in environment}
    assert detect_world(alone) == World(0, 1, 0, "ddp")


def _config(tmp_path: Path, text: str) -> str:
    (tmp_path / "config.yaml").write_text(text)
    return str(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "program", [["/venv/bin/accelerate", "launch"], ["-m", "accelerate.commands.launch"]]
)
def test_the_number_of_processes_in_an_accelerate_config_file(tmp_path, program):
    path = _config(tmp_path, "use_cpu: true\nnum_processes: 2\n")
    command = ["python", *program, "--config_file", path, "recipes/digits/digits.py"]
    with pytest.raises(
        LaunchError, match=r"asked for 2 processes and started 1\..*--multi_gpu --num_processes 2"
    ):
        check_world(World(0, 1, 0, "accelerate"), 0, [command])
    check_world(World(0, 2, 0, "accelerate"), 0, [command])
    more = [*command[:-1], "--num_processes", "4", command[-1]]
    check_world(World(0, 4, 0, "accelerate"), 0, [more])  # the command line goes before the file


def test_accelerates_own_default_file_is_read_unless_it_is_told_cpu(tmp_path, monkeypatch):
    from accelerate.commands.config import config_args

    monkeypatch.setattr(config_args, "default_config_file", _config(tmp_path, '{"num_processes": 2}'))
    command = ["python", "/venv/bin/accelerate", "launch", "recipes/digits/digits.py"]
    with pytest.raises(LaunchError, match="asked for 2 processes"):
        check_world(World(0, 1, 0, "accelerate"), 0, [command])
    check_world(World(0, 1, 0, "accelerate"), 0, [[*command[:3], "--cpu", command[3]]])


@pytest.mark.parametrize("text", ["[1, 2]", "num_processes: [", "num_processes: -1", ""])
def test_an_accelerate_config_file_that_says_nothing(tmp_path, text):
    path = _config(tmp_path, text)
    command = ["python", "/venv/bin/accelerate", "launch", "--config_file", path, "recipes/digits/digits.py"]
    check_world(World(0, 1, 0, "accelerate"), 0, [command])


def test_what_launchers_put_before_the_words_of_a_script():
    words = ["--local_rank=0", "--local-rank=1", "batch_size=64"]
    assert own_arguments(words) == ["batch_size=64"]
