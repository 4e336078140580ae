"""A step that is not finite ends the run, or is skipped within its budget, under ColossalAI too."""

import json
from pathlib import Path
from typing import Any

import pytest

from lab.ranks import run_on_ranks
from tests.colossalai.streams import streams_on_cpu
from tests.distributed.runs import Outcome
from tests.faults.test_not_finite import BAD_STEP, train_with_a_bad_sample


def under_streams(changes: dict[str, Any], run_dir: str, bad: str) -> str:
    with streams_on_cpu():
        return train_with_a_bad_sample(changes, run_dir, bad)


def run_with_a_bad_sample(stage: int, run_dir: Path, bad: str, **changes: Any) -> list[str]:
    changes = dict(changes, engine="colossalai", colossalai=dict(zero_stage=stage))
    return run_on_ranks(2, under_streams, changes, str(run_dir), bad)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("bad", ["image", "gradient"])
def test_the_run_ends_at_that_step_with_the_weights_before_it(tmp_path, stage, bad):
    said = set(
        run_with_a_bad_sample(
            stage, tmp_path, bad, evaluate_every="20it", checkpoint=dict(every="2it", keep=20)
        )
    )
    assert len(said) == 1 and f"at step {BAD_STEP}, learning rate" in said.pop()
    assert json.loads((tmp_path / "diverged.json").read_text())["step"] == BAD_STEP
    assert max((tmp_path / "checkpoints").glob("step_*.pt")).stem == f"step_{BAD_STEP - 1:09}"


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_budget_skips_the_update_alone(tmp_path, stage):
    assert run_with_a_bad_sample(stage, tmp_path, "image", skip_nonfinite=1) == ["", ""]
    run = Outcome(tmp_path)
    assert [row["skipped_steps"] for row in run.rows if row["kind"] == "train"][-1] == 1
    assert all(tensor.isfinite().all() for tensor in run.checkpoint()["state_dict"].values())


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("limit", [dict(max_overflows=3), dict(min_loss_scale=2.0**14)], ids=["row", "floor"])
def test_fp16_ends_when_a_smaller_scale_no_longer_helps(tmp_path, stage, limit):
    (message,) = set(run_with_a_bad_sample(stage, tmp_path, "every gradient", precision="fp16", **limit))
    assert "gradients in fp16 overflowed in 3 steps in a row" in message
    assert "the loss scale fell to 8192 " in message and "at step 3, learning rate" in message
