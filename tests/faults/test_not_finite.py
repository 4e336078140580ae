"""NaN and Inf in a loss or a gradient: the run ends at that step under every engine, says where, and keeps no
weights of it.
"""

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lab.ranks import run_on_ranks
from lbtrain.faults.finite import FiniteCheck
from lbtrain.tasks import Losses
from tests.distributed.runs import SMALL, Outcome
from tests.tiny_detection import tiny

BAD_STEP = 7
CASES = {
    "ddp": dict(engine="ddp"),
    "accelerate": dict(engine="accelerate"),
    **{f"zero{stage}": dict(engine="deepspeed", deepspeed=dict(zero_stage=stage)) for stage in range(4)},
}


def train_with_a_bad_sample(changes: dict[str, Any], run_dir: str, bad: str) -> str:
    """One rank's part of a run in which step BAD_STEP holds one image of NaN, or a loss whose gradient alone
    overflows.
    """
    from lbtrain import Recipe
    from lbtrain.errors import Diverged
    from lbtrain.run import run
    from lbtrain.tasks.classification import Classification

    original, calls = Classification.loss, iter(range(10**6))

    def loss(self: Any, model: Any, batch: Any) -> Losses:
        spoiled = (next(calls) == BAD_STEP - 1 or bad == "every gradient") and int(os.environ["RANK"]) == 1
        images, labels = batch
        if spoiled and bad == "image":
            images = images.clone()
            images[3] = float("nan")
        losses = original(self, model, (images, labels))
        if spoiled and "gradient" in bad:
            return Losses({"loss": _overflowing_gradient(losses.total)}, losses.error)
        return losses

    Classification.loss = loss  # type: ignore[method-assign]
    try:
        run(Recipe().vary(**SMALL).vary(**changes, run_dir=run_dir), "small", on_screen=False)
    except Diverged as error:
        return str(error)
    finally:
        Classification.loss = original  # type: ignore[method-assign]
    return ""


def _overflowing_gradient(loss: torch.Tensor) -> torch.Tensor:
    return loss + (loss - loss.detach()) * torch.tensor(3e38) * 1e3


def detect_with_a_bad_sample(changes: dict[str, Any], run_dir: str) -> list[int]:
    """One rank's part of a grouped detection run whose loss is NaN on rank 1 in step 2; the images of that
    micro-batch.
    """
    from lbtrain.errors import Diverged
    from lbtrain.run import run
    from lbtrain.tasks import detection

    original, seen = detection.Detection.loss, []

    def loss(self: Any, model: Any, batch: Any) -> Losses:
        seen.append(batch.indices)
        spoiled = len(seen) == 2 and int(os.environ["RANK"]) == 1
        losses = original(self, model, batch)
        bad = {name: value * float("nan") for name, value in losses.parts.items()}
        return Losses(bad) if spoiled else losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection.Detection, "loss", loss)
        patch.setattr(
            detection, "kinds_of", lambda sizes, group_by: np.arange(len(sizes)) % 2
        )  # all drawn images are of one size
        with pytest.raises(Diverged):
            run(tiny(**changes).vary(run_dir=run_dir), "tiny", on_screen=False)
    return seen[1]


def leave_with_a_slow_disk(why: str, run_dir: str) -> bool:
    """One rank's part of a run that ends after step 3, while the checkpoint of step 2 or 3 is being written;
    whether it is there when this rank leaves. The engine's own exchanges of one number return at once, as on
    a GPU.
    """
    from lbtrain import Recipe
    from lbtrain.engines.ddp import DDPEngine
    from lbtrain.errors import Diverged, Preempted
    from lbtrain.run import run
    from lbtrain.tasks.classification import Classification

    original, calls = Classification.loss, iter(range(1, 99))
    mean, written = DDPEngine.mean, torch.save
    rank = int(os.environ["RANK"])

    def loss(self: Any, model: Any, batch: Any) -> Losses:
        losses, step = original(self, model, batch), next(calls)
        if why == "diverged":
            return Losses({"loss": losses.total * float("nan")}) if step == 3 else losses
        if step == 2 and rank:  # seen by all a step later
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    def save_slowly(*given: Any) -> None:
        time.sleep(1)
        written(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "loss", loss)
        patch.setattr(
            DDPEngine, "mean", lambda self, value: value if value.numel() == 1 else mean(self, value)
        )
        patch.setattr(torch, "save", save_slowly)
        every = dict(every="2it" if why == "diverged" else "20it")
        recipe = (
            Recipe().vary(**SMALL).vary(engine="ddp", log_every="20it", checkpoint=every, run_dir=run_dir)
        )
        with pytest.raises(Diverged if why == "diverged" else Preempted):
            run(recipe, "small", on_screen=False)
        return any(Path(run_dir).glob("checkpoints/step_*.pt"))


@pytest.mark.parametrize("why", ["diverged", "stopped"])
def test_no_rank_leaves_before_the_last_checkpoint_is_there(tmp_path: Path, why: str):
    """The guards would end rank 0, which writes it, with the first that leaves."""
    assert run_on_ranks(2, leave_with_a_slow_disk, why, str(tmp_path)) == [True, True]


def test_the_images_of_a_grouped_stream_are_the_ones_that_were_trained_on(tmp_path: Path):
    trained_on = run_on_ranks(
        2, detect_with_a_bad_sample, dict(engine="ddp", data=dict(group_by="size")), str(tmp_path)
    )
    (suspect,) = json.loads((tmp_path / "diverged.json").read_text())["suspects"]
    assert suspect["samples"] == trained_on[1]


SLOW = {"zero1", "zero3", "accelerate"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES]
)
@pytest.mark.parametrize("bad", ["image", "gradient"])
def test_the_run_ends_at_that_step_and_says_where(tmp_path: Path, case: str, bad: str):
    changes = dict(
        CASES[case], log_every="20it", evaluate_every="20it", checkpoint=dict(every="2it", keep=20)
    )
    said = set(run_on_ranks(2, train_with_a_bad_sample, changes, str(tmp_path), bad))
    assert len(said) == 1
    (message,) = said
    assert f"at step {BAD_STEP}, learning rate" in message
    dump = json.loads((tmp_path / "diverged.json").read_text())
    assert (dump["step"], dump["examples"]) == (BAD_STEP, (BAD_STEP - 1) * 64)
    (where,) = [one for one in dump["suspects"] if one["rank"] == 1]
    assert len(where["samples"]) == 32
    assert len(dump["suspects"]) == (1 if bad == "image" else 2)
    if not case.startswith("zero") or case == "zero0":
        assert "conv1.weight" in dump["layers"] if bad == "image" else dump["layers"]
    assert max((tmp_path / "checkpoints").glob("step_*.pt")).stem == f"step_{BAD_STEP - 1:09}"


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES]
)
def test_a_budget_skips_the_update_alone(tmp_path: Path, case: str):
    changes = dict(CASES[case], skip_nonfinite=1)
    assert run_on_ranks(2, train_with_a_bad_sample, changes, str(tmp_path), "image") == ["", ""]
    run = Outcome(tmp_path)
    assert [row["skipped_steps"] for row in run.rows if row["kind"] == "train"][-1] == 1
    assert all(tensor.isfinite().all() for tensor in run.checkpoint()["state_dict"].values())
    early = torch.load(tmp_path / "checkpoints/step_000000010.pt", weights_only=True)["state_dict"]
    moved = [
        not torch.equal(early[name], tensor)
        for name, tensor in run.checkpoint()["state_dict"].items()
        if "running_mean" in name
    ]
    assert moved and all(moved)


@pytest.mark.parametrize(
    "case",
    [
        case if case == "ddp" else pytest.param(case, marks=pytest.mark.slow)
        for case in CASES
        if case != "accelerate"  # it does not train in fp16 on CPUs
    ],
)
@pytest.mark.parametrize("limit", [dict(max_overflows=3), dict(min_loss_scale=2.0**14)], ids=["row", "floor"])
def test_fp16_ends_when_a_smaller_scale_no_longer_helps(tmp_path: Path, case: str, limit: dict[str, Any]):
    """Scales of 2**15, 2**14 and 2**13 after three steps that overflowed, with a loss that stays finite."""
    changes = dict(CASES[case], precision="fp16", **limit)
    (message,) = set(run_on_ranks(2, train_with_a_bad_sample, changes, str(tmp_path), "every gradient"))
    assert "gradients in fp16 overflowed in 3 steps in a row" in message
    assert "the loss scale fell to 8192 " in message and "at step 3, learning rate" in message
    assert json.loads((tmp_path / "diverged.json").read_text())["step"] == 3


def test_overflows_are_counted_in_a_row_only():
    """As they come with every growth of the scale; by hand, on one rank."""
    check = FiniteCheck.__new__(FiniteCheck)
    check.max_overflows, check.min_loss_scale, check.overflows, check.overflowed = 3, 1.0, 0, 0
    check.engine = SimpleNamespace(loss_scale=1024.0)  # type: ignore[assignment]
    for step in (1, 2, 4, 5, 7, 9):
        check._count_overflow(SimpleNamespace(step=step))  # type: ignore[arg-type]
    assert check.overflows == 1
