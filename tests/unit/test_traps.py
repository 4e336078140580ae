"""What DeepSpeed, accelerate and timm do that we work around: a test on each, so that a new version that
differs is noticed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm.optim
import torch
from torch import nn

os.environ.setdefault("DS_ACCELERATOR", "cpu")
DIGITS = Path(__file__).parents[2] / "recipes/digits/digits.py"


def test_deepspeed_clips_gradients_to_1_unless_told():
    from deepspeed.runtime.config import DeepSpeedConfig

    assert DeepSpeedConfig({"train_batch_size": 1}).gradient_clipping == 1.0


def test_deepspeeds_warmup_is_logarithmic_unless_told():
    from deepspeed.runtime.lr_schedules import WarmupLR

    def share_after_a_tenth(**settings) -> float:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = WarmupLR(
            optimizer, warmup_min_lr=0.0, warmup_max_lr=1.0, warmup_num_steps=1000, **settings
        )
        schedule.step(99)
        return schedule.get_last_lr()[0]

    assert share_after_a_tenth() == pytest.approx(2 / 3, abs=0.01)
    assert share_after_a_tenth(warmup_type="linear") == pytest.approx(0.1, abs=0.002)


def test_the_deepspeed_launcher_goes_on_without_its_hostfile(tmp_path):
    from deepspeed.launcher.runner import fetch_hostfile

    assert not fetch_hostfile(str(tmp_path / "not-there"))


def test_what_the_deepspeed_launcher_exports_to_other_hosts():
    from deepspeed.launcher.runner import EXPORT_ENVS

    # With GPUs the accelerator adds NCCL.
    assert set(EXPORT_ENVS) - {"NCCL"} == {"PYTHON", "MLFLOW", "MV2", "UCX"}


def test_deepspeeds_env_file_breaks_on_a_blank_line(tmp_path):
    """The launcher splits every line of .deepspeed_env at `=` without looking; see its source."""
    import inspect

    from deepspeed.launcher import runner

    source = inspect.getsource(runner.main)
    assert "DEEPSPEED_ENVIRONMENT_NAME" in inspect.getsource(runner) and "split('=', maxsplit=1)" in source


@pytest.mark.parametrize(
    ("name", "said"),
    [("elasticity", "elasticity"), ("amp", "AMP integration has been removed"), ("eigenvalue", "eigenvalue")],
)
def test_gone_from_deepspeed(name, said):
    from deepspeed.runtime.config import DeepSpeedConfig

    with pytest.raises(Exception, match=said):
        DeepSpeedConfig({"train_batch_size": 1, name: {"enabled": True}})


def test_one_bit_lamb_is_gone_from_deepspeed():
    with pytest.raises(ImportError):
        from deepspeed.runtime.fp16.onebit.lamb import OnebitLamb  # noqa: F401


def test_batch_norm_in_bf16_with_statistics_in_fp32_fails_on_a_cpu():
    """What DeepSpeed's bf16.enabled makes of a model: hence torch_autocast."""
    layer = nn.BatchNorm2d(2).bfloat16()
    layer.running_mean, layer.running_var = layer.running_mean.float(), layer.running_var.float()
    with pytest.raises(RuntimeError):
        layer(torch.randn(4, 2, 3, 3, dtype=torch.bfloat16))


def test_batch_norm_under_autocast_works_and_keeps_fp32_weights():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(4, 2, 3, 3)).sum().backward()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_timms_lars_adapts_nothing_without_weight_decay():
    def step(**settings) -> float:
        weight = nn.Parameter(torch.full((4,), 2.0))
        optimizer = timm.optim.Lars(
            [weight], lr=1.0, momentum=0.0, weight_decay=0.0, trust_coeff=0.001, **settings
        )
        weight.grad = torch.ones(4)
        optimizer.step()
        return 2 - weight[0].item()

    assert step() == pytest.approx(1.0)
    assert step(always_adapt=True) == pytest.approx(0.001 * 2.0, rel=1e-4)


def test_accelerates_scheduler_ticks_once_a_process():
    import inspect

    from accelerate.scheduler import AcceleratedScheduler

    source = inspect.getsource(AcceleratedScheduler.step)
    assert (
        "num_processes = AcceleratorState().num_processes" in source
        and "for _ in range(num_processes)" in source
    )


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, dict(distributed_type="MULTI_GPU", num_processes=2, use_cpu=False)])
def test_the_config_file_that_accelerate_writes_starts_a_run(tmp_path, changes):
    """As it is, and with what its questions set for two processes, which need no GPU."""
    from accelerate.utils import write_basic_config

    path = tmp_path / "config.json"
    write_basic_config(save_location=path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file", str(path)]
    words = [str(DIGITS), "duration=1it", "evaluate_every=1dur", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    ranks = changes.get("num_processes", 1)
    assert f"{ranks} rank{'s' * (ranks > 1)} under accelerate" in done.stdout
    assert json.loads((tmp_path / "run/summary.json").read_text())["step"] == 1


def test_accelerate_on_cpus_starts_one_process_and_lbtrain_notices(tmp_path):
    launcher = Path(sys.executable).with_name("accelerate")
    command = [str(launcher), "launch", "--cpu", "--num_processes", "2", str(DIGITS), "duration=1it"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "accelerate launch was asked for 2 processes and started 1" in done.stderr
    assert "exit status 3" in done.stderr
    assert not (tmp_path / "runs").exists()
