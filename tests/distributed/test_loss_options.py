"""Mixup, label smoothing and multiplicative noise: the same run whatever it runs on, and each acts."""

import pytest

from tests.distributed.runs import Outcome, check_goes_on_bit_identical, relative_difference, train_on

ALL = dict(loss=dict(label_smoothing=0.1, mixup=0.4, multiplicative_noise=0.3))


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp", **ALL)


@pytest.mark.parametrize(
    ("engine", "world_size", "micro"), [("ddp", 2, 8), ("deepspeed", 2, 16), ("accelerate", 1, 32)]
)
def test_any_batch_split_gives_the_same_losses(oracle, tmp_path, engine, world_size, micro):
    run = train_on(
        world_size,
        tmp_path / "run",
        engine=engine,
        micro_batch_size=micro,
        data=dict(workers=int(micro == 16)),
        **ALL,
    )
    assert len(run.losses) == 20
    assert relative_difference(run.losses, oracle.losses) < 1e-5


def test_partners_that_lie_on_another_rank(tmp_path):
    """A ghost batch of 64 spans both ranks, half of it on each."""
    alone = train_on(1, tmp_path / "alone", engine="ddp", bn_batch_size=64, **ALL)
    spread = train_on(2, tmp_path / "spread", engine="ddp", bn_batch_size=64, **ALL)
    assert relative_difference(spread.losses, alone.losses) < 1e-5


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_sharded_states_give_the_same_losses(oracle, tmp_path, zero_stage):
    run = train_on(2, tmp_path / "run", engine="deepspeed", deepspeed=dict(zero_stage=zero_stage), **ALL)
    assert len(run.losses) == 20
    assert relative_difference(run.losses, oracle.losses) < 1e-5


def test_a_stopped_run_goes_on_bit_identical(oracle, tmp_path):
    check_goes_on_bit_identical(oracle, tmp_path / "run", engine="ddp", **ALL)


@pytest.mark.parametrize("missing", ["label_smoothing", "mixup", "multiplicative_noise"])
def test_each_option_acts(oracle, tmp_path, missing):
    run = train_on(1, tmp_path / "run", engine="ddp", duration="1it", loss={**ALL["loss"], missing: 0.0})
    assert abs(run.losses[0] - oracle.losses[0]) > 1e-3 * oracle.losses[0]
