"""ABSA and the average of the weights: the same run whatever it runs on, and after a stop anywhere."""

import shutil
from pathlib import Path

import pytest
import timm
import torch

from tests.distributed.runs import Outcome, relative_difference, train_on

BOTH = dict(
    absa=dict(max_batch_size=256, every="4it", patience=2, adversarial_step=0.05),
    ema=dict(decay=0.8),
    duration="24it",
    log_every="1it",
    evaluate_every="8it",
    checkpoint=dict(every="1it", keep=99),
)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp", **BOTH)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train_on(2, tmp_path_factory.mktemp("straight") / "run", engine="ddp", **BOTH)


def curvatures(run: Outcome) -> list[dict]:
    return [row for row in run.rows if row["kind"] == "curvature"]


def batches(run: Outcome) -> list[int]:
    return [row["batch_size"] for row in run.rows if row["kind"] == "train"]


def test_the_batch_climbs_and_the_rate_with_it(oracle):
    decisions = curvatures(oracle)
    assert batches(oracle)[0] == 64 and batches(oracle)[-1] == 256
    assert {64, 128, 256} == set(batches(oracle))
    assert [row["examples"] for row in decisions] == sorted({row["examples"] for row in decisions})
    # At the largest batch nothing is measured any more.
    assert [row["batch_size"] for row in decisions].count(256) == 1
    steps = [row for row in oracle.rows if row["kind"] == "train"]
    planned = train_schedule(steps)
    assert [row["lr"] for row in steps] == pytest.approx(
        [lr * row["batch_size"] / 64 for lr, row in zip(planned, steps, strict=True)]
    )


def train_schedule(steps: list[dict]) -> list[float]:
    """The rates of the schedule alone, at the positions of these steps."""
    from lbtrain import Recipe
    from lbtrain.plan.plan import make_plan
    from tests.distributed.runs import SMALL

    plan = make_plan(Recipe().vary(**SMALL).vary(**BOTH), 1)
    return [plan.lr(row["examples"] - row["batch_size"]) for row in steps]


@pytest.mark.parametrize(
    ("engine", "world_size", "changes"),
    [
        ("ddp", 2, dict(micro_batch_size=16)),
        ("deepspeed", 2, {}),
        ("deepspeed", 2, dict(deepspeed=dict(zero_stage=2))),
        pytest.param("deepspeed", 2, dict(deepspeed=dict(zero_stage=1)), marks=pytest.mark.slow),
        pytest.param("accelerate", 2, {}, marks=pytest.mark.slow),
        pytest.param("ddp", 4, dict(bn_batch_size=8), marks=pytest.mark.slow),
    ],
)
def test_any_engine_world_and_batch_split_decides_alike(oracle, tmp_path, engine, world_size, changes):
    run = train_on(world_size, tmp_path / "run", engine=engine, **changes, **BOTH)
    assert batches(run) == batches(oracle)
    ours, theirs = ([row["eigenvalue"] for row in curvatures(outcome)] for outcome in (run, oracle))
    assert relative_difference(ours, theirs) < 1e-3
    assert relative_difference(run.losses, oracle.losses) < 1e-4
    assert [row["ema_loss"] for row in run.evaluations] == pytest.approx(
        [row["ema_loss"] for row in oracle.evaluations], rel=1e-4
    )


@pytest.mark.parametrize("stop", ["before the first decision", "at a decision", "after a decision"])
def test_a_stopped_run_goes_on_bit_identical(straight, tmp_path, stop):
    grown = batches(straight).index(128)
    step = {"before the first decision": 2, "at a decision": grown, "after a decision": grown + 1}[stop]
    again = train_on(2, _stopped_after(straight, step, tmp_path / "run"), engine="ddp", **BOTH)
    assert again.losses == straight.losses
    assert curvatures(again) == curvatures(straight)
    ours, theirs = again.checkpoint(), straight.checkpoint()
    assert ours["absa"] == theirs["absa"]
    for part in ("state_dict", "state_dict_ema"):
        assert all(torch.equal(ours[part][name], tensor) for name, tensor in theirs[part].items())
    assert [row["ema_loss"] for row in again.evaluations] == [row["ema_loss"] for row in straight.evaluations]


def _stopped_after(straight: Outcome, step: int, run_dir: Path) -> Path:
    shutil.copytree(straight.run_dir, run_dir)
    for path in (run_dir / "checkpoints").glob("step_*.pt"):
        if int(path.stem.removeprefix("step_")) > step:
            path.unlink()
    (run_dir / "summary.json").unlink()
    return run_dir


def test_the_average_by_hand_and_timm_finds_it(straight):
    """timm's first update copies the weights."""
    saved = [
        torch.load(path, weights_only=True)
        for path in sorted((straight.run_dir / "checkpoints").glob("step_*.pt"))
    ]
    assert len(saved) > 4
    name = "conv1.weight" if "conv1.weight" in saved[0]["state_dict"] else next(iter(saved[0]["state_dict"]))
    average = saved[0]["state_dict"][name]
    for content in saved[1:]:
        average = 0.8 * average + 0.2 * content["state_dict"][name]
    torch.testing.assert_close(saved[-1]["state_dict_ema"][name], average, rtol=1e-5, atol=1e-7)

    newest = max((straight.run_dir / "checkpoints").glob("step_*.pt"))
    model = timm.create_model("cifar_resnet8", num_classes=10, in_chans=1, checkpoint_path=str(newest))
    assert torch.equal(model.state_dict()[name], saved[-1]["state_dict_ema"][name])


def test_training_is_the_same_with_an_average_and_without(straight, tmp_path):
    plain = train_on(2, tmp_path / "run", engine="ddp", **{**BOTH, "ema": dict(decay=0.0)})
    assert plain.losses == straight.losses
    assert "ema_loss" not in plain.evaluations[0] and "state_dict_ema" not in plain.checkpoint()


def test_adversarial_images_act(oracle, tmp_path):
    without = train_on(
        1,
        tmp_path / "run",
        engine="ddp",
        **{**BOTH, "absa": BOTH["absa"] | dict(adversarial_share=0.0), "duration": "4it"},
    )
    assert abs(without.losses[0] - oracle.losses[0]) > 1e-4
