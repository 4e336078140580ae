"""A batch that grows during the run: the same run on anything, and after a stop at any step around a
change.
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

GROWTH = dict(
    schedule=dict(**STEPPED, batch_growth=["5.5it:2", "14it:2"]),
    evaluate_every="1ep",
    checkpoint=dict(every="1it", keep=99),
)
BATCHES = [64] * 6 + [128] * 4 + [256] * 2
"""5.5 steps lie inside the sixth: the seventh is the first that begins after it. 1,280 examples end inside
the twelfth.
"""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp", **GROWTH)


def test_a_loop_written_by_hand_gives_the_same_losses(oracle):
    losses = losses_by_hand([(size, None) for size in BATCHES], lambda seen, _: stepped_rate(seen))
    assert relative_difference(oracle.losses, losses) < 1e-5


def test_every_row_says_its_batch_and_the_step_that_begins_the_phase_has_it(oracle):
    rows = [row for row in oracle.rows if row["kind"] == "train"]
    assert [row["batch_size"] for row in rows] == BATCHES
    assert [row["examples"] for row in rows] == [sum(BATCHES[: step + 1]) for step in range(len(BATCHES))]
    assert rows[9]["lr"] == 0.05 and rows[10]["lr"] == pytest.approx(0.005)


def test_a_row_over_a_change_of_the_batch_averages_over_images(tmp_path, oracle):
    few = train_on(1, tmp_path / "run", engine="ddp", **GROWTH, log_every="16it")
    done = [size * loss for size, loss in zip(BATCHES, oracle.losses, strict=True)]
    # Sixteen steps of 64 end inside the eleventh step; the run ends with the twelfth.
    expected = [sum(done[:11]) / sum(BATCHES[:11]), done[11] / BATCHES[11]]
    assert relative_difference(few.losses, expected) < 1e-5
    assert [row["step"] for row in few.rows if row["kind"] == "train"] == [11, 12]


SOME = [
    ("ddp", 2, 16, 0),
    ("ddp", 1, 0, 32),
    ("deepspeed", 1, 16, 0),
    ("deepspeed", 2, 0, 0),
    ("accelerate", 2, 16, 0),
]
REST = [
    ("ddp", 1, 16, 0),
    ("ddp", 2, 0, 32),
    ("deepspeed", 2, 0, 32),
    ("deepspeed", 1, 0, 32),
    ("deepspeed", 2, 16, 0),
    ("accelerate", 1, 16, 0),
    ("accelerate", 1, 0, 32),
    ("accelerate", 2, 0, 32),
]


@pytest.mark.parametrize(
    ("engine", "world_size", "micro", "most"),
    [*SOME, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)],
)
def test_any_engine_world_and_batch_split_gives_equal_losses(
    oracle, tmp_path, engine, world_size, micro, most
):
    run = train_on(
        world_size,
        tmp_path / "run",
        engine=engine,
        micro_batch_size=micro,
        max_micro_batch_size=most,
        **GROWTH,
    )
    assert relative_difference(run.losses, oracle.losses) < 1e-5
    assert [row["top1_error"] for row in run.evaluations] == [row["top1_error"] for row in oracle.evaluations]


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_any_zero_stage_gives_the_same_losses(oracle, tmp_path, zero_stage):
    run = train_on(
        2,
        tmp_path / "run",
        engine="deepspeed",
        deepspeed=dict(zero_stage=zero_stage),
        micro_batch_size=16,
        **GROWTH,
    )
    assert relative_difference(run.losses, oracle.losses) < 1e-5


def test_ghost_batches_that_span_ranks_before_the_change_and_not_after(tmp_path):
    """On 4 ranks a ghost batch of 32 spans two ranks at batch 64, and lies on one from 128 on."""
    alone = train_on(1, tmp_path / "alone", engine="ddp", bn_batch_size=32, **GROWTH)
    spread = train_on(4, tmp_path / "spread", engine="ddp", bn_batch_size=32, **GROWTH)
    assert relative_difference(spread.losses, alone.losses) < 1e-5


@pytest.mark.parametrize(
    ("engine", "step"), [("ddp", 5), ("ddp", 6), ("ddp", 7), ("deepspeed", 6), ("accelerate", 10)]
)
def test_resuming_around_a_change_is_bit_identical(tmp_path_factory, tmp_path, engine, step):
    straight = _straight(tmp_path_factory, engine)
    check_goes_on_bit_identical(straight, tmp_path / "run", after=step, world_size=2, engine=engine, **GROWTH)


_RUNS: dict[str, Outcome] = {}


def _straight(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Outcome:
    if engine not in _RUNS:
        _RUNS[engine] = train_on(2, tmp_path_factory.mktemp(engine) / "run", engine=engine, **GROWTH)
    return _RUNS[engine]
