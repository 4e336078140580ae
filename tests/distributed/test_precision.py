"""bf16 and fp16: every engine runs the forward pass in them and keeps fp32 weights."""

from collections.abc import Iterator

import pytest
import torch

from lab.ranks import end_pool, run_on_ranks
from tests.distributed.exchanges import scaled_steps
from tests.distributed.runs import Outcome, relative_difference, train_on


@pytest.fixture(scope="module")
def single() -> Iterator[dict[str, Outcome]]:
    yield {}
    end_pool(
        2
    )  # accelerate and DeepSpeed keep the precision in their modules, and other tests call them directly


# On a CPU accelerate would leave fp16 out, and is refused (tests/unit/test_validate.py).
@pytest.mark.parametrize(
    ("engine", "precision"),
    [("ddp", "bf16"), ("ddp", "fp16"), ("deepspeed", "bf16"), ("deepspeed", "fp16"), ("accelerate", "bf16")],
)
def test_the_losses_are_near_those_of_single_precision(tmp_path_factory, tmp_path, single, engine, precision):
    if not single:
        single["fp32"] = train_on(2, tmp_path_factory.mktemp("fp32") / "run", engine="ddp")
    run = train_on(2, tmp_path / "run", engine=engine, precision=precision)
    # Half precision has 8 or 11 bits: near, and by no means equal.
    assert 1e-6 < relative_difference(run.losses, single["fp32"].losses) < 0.05
    if (
        engine == "deepspeed"
    ):  # a run after it in the same process is in single precision again, also where ZeRO reduces
        again = train_on(2, tmp_path / "again", engine=engine, deepspeed=dict(zero_stage=1))
        assert relative_difference(again.losses, single["fp32"].losses) < 1e-5
    dtypes = {
        tensor.dtype for tensor in run.checkpoint()["state_dict"].values() if tensor.is_floating_point()
    }
    assert dtypes == {torch.float32}


@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_the_loss_scale_under_zero_falls_is_kept_and_is_gone_before_clipping(
    stage,
):
    changes = dict(
        engine="deepspeed", precision="fp16", deepspeed=dict(zero_stage=stage), optimizer=dict(clip_norm=0.05)
    )
    first, second = run_on_ranks(2, scaled_steps, changes)
    assert (first["overflowed"], first["after"], first["applied"]) == (True, 2.0**119, (True, True))
    kept = {"loss_scale": 1024.0, "loss_scale_steps": 1}
    assert (first["saved"], first["loaded"], second["loaded"]) == (kept, kept, kept)
    assert first["far"] < 1e-3
