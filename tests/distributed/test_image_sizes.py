"""Images that grow during the run, in batches that change with them: the same run on anything, and after a
stop at any step around a change.
"""

import pytest

from tests.distributed.runs import (
    STEPPED,
    Outcome,
    check_goes_on_bit_identical,
    losses_by_hand,
    relative_difference,
    stepped_rate,
    train_on,
)

RESIZING = dict(
    schedule=dict(**STEPPED, image_sizes=["0it:4", "5.5it:6:128", "14it:8"]),
    evaluate_every="1ep",
    checkpoint=dict(every="1it", keep=99),
)
STEPS = [(64, 4)] * 6 + [(128, 6)] * 4 + [(64, 8)] * 6
"""Batch size and pixels a side of each step: 1,280 examples in all."""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp", **RESIZING)


def test_a_loop_written_by_hand_gives_the_same_losses(oracle):
    losses = losses_by_hand(STEPS, lambda seen, size: stepped_rate(seen) * size / 64)  # the linear rule
    assert relative_difference(oracle.losses, losses) < 1e-5


def test_every_row_says_its_batch_and_the_rate_follows_it(oracle):
    rows = [row for row in oracle.rows if row["kind"] == "train"]
    assert [row["batch_size"] for row in rows] == [batch for batch, _ in STEPS]
    assert [row["lr"] for row in rows[5:11]] == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.1, 0.005])


@pytest.mark.parametrize(
    ("engine", "world_size", "micro", "zero_stage"),
    [
        ("ddp", 2, 16, 0),
        ("deepspeed", 2, 0, 1),
        pytest.param("accelerate", 2, 32, 0, marks=pytest.mark.slow),
        pytest.param("deepspeed", 2, 16, 3, marks=pytest.mark.slow),
        pytest.param("ddp", 4, 0, 0, marks=pytest.mark.slow),
    ],
)
def test_any_engine_world_and_batch_split_gives_equal_losses(
    oracle, tmp_path, engine, world_size, micro, zero_stage
):
    run = train_on(
        world_size,
        tmp_path / "run",
        engine=engine,
        micro_batch_size=micro,
        deepspeed=dict(zero_stage=zero_stage),
        **RESIZING,
    )
    assert relative_difference(run.losses, oracle.losses) < 1e-5
    assert [row["top1_error"] for row in run.evaluations] == [row["top1_error"] for row in oracle.evaluations]


@pytest.mark.parametrize("step", [5, 6, pytest.param(10, marks=pytest.mark.slow)])
def test_resuming_around_a_change_is_bit_identical(oracle, tmp_path, step):
    check_goes_on_bit_identical(oracle, tmp_path / "run", after=step, engine="ddp", **RESIZING)
