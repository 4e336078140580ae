"""Same recipe, same seed, same global batch: the same training run, whatever it runs on."""

import itertools
import shutil
from pathlib import Path

import pytest
import torch

from tests.distributed.runs import (
    Outcome,
    check_goes_on_bit_identical,
    check_same_run,
    relative_difference,
    train_on,
)

ENGINES = ("ddp", "deepspeed", "accelerate")


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Plain torch, one process, no accumulation."""
    return train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp")


SIZES = (1, 2, 4)
LATIN_SQUARE = [
    (ENGINES[row], SIZES[column], SIZES[(row + column) % 3]) for row in range(3) for column in range(3)
]
"""Every pair of engine, world size and accumulation once; the other combinations run as slow tests."""


@pytest.mark.parametrize(
    ("engine", "world_size", "accumulation"),
    [
        pytest.param(*case, marks=[] if case in LATIN_SQUARE else pytest.mark.slow)
        for case in itertools.product(ENGINES, SIZES, SIZES)
    ],
)
def test_any_engine_world_and_accumulation_gives_the_same_losses(
    oracle, tmp_path, engine, world_size, accumulation
):
    run = train_on(
        world_size, tmp_path / "run", engine=engine, micro_batch_size=64 // world_size // accumulation
    )
    check_same_run(run, oracle)


@pytest.mark.parametrize("world_size", [1, 2])
def test_loader_workers_change_nothing(oracle, tmp_path, world_size):
    run = train_on(world_size, tmp_path / "run", engine="ddp", data=dict(workers=2))
    assert relative_difference(run.losses, oracle.losses) < 1e-5


@pytest.mark.parametrize(("engine", "stage"), [("ddp", 0), ("deepspeed", 0), ("deepspeed", 1)])
def test_the_order_in_memory_changes_nothing(oracle, tmp_path, engine, stage):
    changes = dict(engine=engine, channels_last=True, deepspeed=dict(zero_stage=stage))
    run = train_on(2, tmp_path / "run", **changes)
    assert relative_difference(run.losses, oracle.losses) < 1e-5


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_offloaded_optimizer_saves_and_goes_on(oracle, tmp_path, stage):
    config = tmp_path / "offload.json"
    config.write_text('{"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}')
    changes = dict(engine="deepspeed", deepspeed=dict(zero_stage=stage, config=str(config)))
    run = train_on(2, tmp_path / "run", **changes)
    check_same_run(run, oracle)
    check_goes_on_bit_identical(run, tmp_path / "again", world_size=2, **changes)


@pytest.mark.parametrize("engine", ENGINES)
def test_resuming_is_bit_identical_on_the_same_world(tmp_path, engine):
    straight = train_on(2, tmp_path / "straight", engine=engine)
    resumed = _stop_after_ten_steps(straight, tmp_path / "resumed")
    again = train_on(2, resumed, engine=engine)
    assert again.losses == straight.losses
    for name, tensor in straight.checkpoint()["state_dict"].items():
        assert torch.equal(again.checkpoint()["state_dict"][name], tensor), name


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("world_size", [1, 4])
def test_resuming_on_another_world_goes_on_alike(oracle, tmp_path, engine, world_size):
    straight = train_on(2, tmp_path / "straight", engine="ddp")
    resumed = train_on(world_size, _stop_after_ten_steps(straight, tmp_path / "resumed"), engine=engine)
    assert len(resumed.losses) == 20
    assert relative_difference(resumed.losses, oracle.losses) < 1e-5


@pytest.fixture(scope="module", params=["sgd", "lars", "lamb", "adamw", "nadamw", "muon"])
def clipped_oracle(request, tmp_path_factory) -> tuple[dict, Outcome]:
    """Plain torch on one process with each optimizer, and clipping that acts: the gradient norms of these
    steps lie above 0.1.
    """
    # Rates at which training is stable: an unstable one amplifies the last digit of a sum into a difference
    # of its own.
    rates = {"sgd": 0.05, "lars": 1.0, "lamb": 0.01, "adamw": 0.002, "nadamw": 0.002, "muon": 0.01}
    rate = rates[request.param]
    changes = dict(
        optimizer=dict(name=request.param, clip_norm=0.1),
        schedule=dict(base_lr=rate, warmup_start_lr=rate / 5),
    )
    return changes, train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp", **changes)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_any_zero_stage_and_optimizer_gives_the_same_losses(clipped_oracle, tmp_path, zero_stage):
    changes, oracle = clipped_oracle
    sharded = dict(engine="deepspeed", deepspeed=dict(zero_stage=zero_stage), micro_batch_size=16)
    run = train_on(2, tmp_path / "run", **sharded, **changes)
    assert relative_difference(run.losses, oracle.losses) < 1e-5
    assert [row["top1_error"] for row in run.evaluations] == [row["top1_error"] for row in oracle.evaluations]


@pytest.mark.parametrize(("first", "then"), [(0, 2), (2, 0), (1, 3), (3, 1)])
def test_a_checkpoint_moves_between_zero_stages_and_world_sizes(tmp_path, first, then):
    lamb = dict(
        optimizer=dict(name="lamb"), schedule=dict(base_lr=0.01, warmup_start_lr=0.002), engine="deepspeed"
    )
    straight = train_on(2, tmp_path / "straight", **lamb, deepspeed=dict(zero_stage=first))
    stopped = _stop_after_ten_steps(straight, tmp_path / "resumed")
    resumed = train_on(4, stopped, **lamb, deepspeed=dict(zero_stage=then))
    assert len(resumed.losses) == 20
    assert relative_difference(resumed.losses, straight.losses) < 1e-5


def test_accelerate_clips_and_steps_alike(clipped_oracle, tmp_path):
    changes, oracle = clipped_oracle
    run = train_on(2, tmp_path / "run", engine="accelerate", micro_batch_size=16, **changes)
    assert relative_difference(run.losses, oracle.losses) < 1e-5


def test_clipping_acts(clipped_oracle, oracle):
    changes, clipped = clipped_oracle
    if changes["optimizer"]["name"] == "sgd":
        assert relative_difference(clipped.losses, oracle.losses) > 1e-3


def test_dropout_is_the_same_on_every_engine_and_after_a_restart(tmp_path):
    """Masks depend on the batch split (a plan says so), and on nothing else."""
    dropping = dict(model=dict(name="odd_dropping"), micro_batch_size=16)
    straight = train_on(2, tmp_path / "straight", engine="ddp", **dropping)
    for engine in ("deepspeed", "accelerate"):
        check_same_run(train_on(2, tmp_path / engine, engine=engine, **dropping), straight)
    resumed = train_on(2, _stop_after_ten_steps(straight, tmp_path / "resumed"), engine="ddp", **dropping)
    assert resumed.losses == straight.losses
    plain = train_on(2, tmp_path / "plain", engine="ddp", model=dict(name="odd_small"), micro_batch_size=16)
    assert relative_difference(plain.losses, straight.losses) > 1e-3, "nothing was dropped"


def _stop_after_ten_steps(straight: Outcome, run_dir: Path) -> Path:
    """The run directory as it would be, had the run been stopped after the checkpoint of step 10."""
    shutil.copytree(straight.run_dir, run_dir)
    (run_dir / "checkpoints/step_000000020.pt").unlink()
    return run_dir
