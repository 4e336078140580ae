"""The contract under engine=colossalai: same recipe, same seed, same global batch, the same training run."""

import shutil
from pathlib import Path

import pytest
import torch

from lab.ranks import run_on_ranks
from tests.colossalai.runs import train_sharded_on
from tests.distributed.exchanges import alike_after_each_pass
from tests.distributed.runs import Outcome, check_same_run, relative_difference, train_on
from tests.distributed.test_batch_growth import GROWTH

COLOSSALAI = dict(engine="colossalai")
STAGES = [dict(COLOSSALAI, colossalai=dict(zero_stage=stage)) for stage in (1, 2)]
FOUR_RANKS = pytest.param(4, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Plain torch, one process, no accumulation."""
    return train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp")


@pytest.mark.parametrize("world_size", [1, 2, FOUR_RANKS])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_any_world_and_accumulation_gives_the_losses_of_one_process(
    oracle, tmp_path, world_size, accumulation
):
    check_same_run(
        train_on(
            world_size, tmp_path / "run", **COLOSSALAI, micro_batch_size=64 // world_size // accumulation
        ),
        oracle,
    )


def test_a_ghost_batch_over_two_ranks_is_no_sync_batch_norm(tmp_path):
    """TorchDDPPlugin would put SyncBatchNorm in its place, whose batch is all ranks' and which refuses
    CPUs.
    """
    ghosts = dict(bn_batch_size=32, micro_batch_size=16)
    run = train_on(2, tmp_path / "run", **COLOSSALAI, **ghosts)
    check_same_run(run, train_on(1, tmp_path / "oracle", engine="ddp", bn_batch_size=32))


@pytest.mark.parametrize("stage", STAGES, ids=("zero1", "zero2"))
@pytest.mark.parametrize("world_size", [2, FOUR_RANKS])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_sharded_runs_give_the_losses_of_one_process(oracle, tmp_path, stage, world_size, accumulation):
    check_same_run(
        train_sharded_on(
            world_size, tmp_path / "run", **stage, micro_batch_size=64 // world_size // accumulation
        ),
        oracle,
    )


@pytest.fixture(scope="module", params=["sgd", "lars", "lamb"])
def clipped_oracle(request, tmp_path_factory) -> tuple[dict, Outcome]:
    """Plain torch on one process with each optimizer, and clipping that acts: the gradient norms of these
    steps lie above 0.1.
    """
    rates = {"sgd": 0.05, "lars": 1.0, "lamb": 0.01}
    rate = rates[request.param]
    changes = dict(
        optimizer=dict(name=request.param, clip_norm=0.1),
        schedule=dict(base_lr=rate, warmup_start_lr=rate / 5),
    )
    return changes, train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp", **changes)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_any_stage_and_optimizer_clips_and_steps_alike(clipped_oracle, tmp_path, stage):
    changes, oracle = clipped_oracle
    train = train_sharded_on if stage else train_on
    check_same_run(
        train(
            2,
            tmp_path / "run",
            **COLOSSALAI,
            colossalai=dict(zero_stage=stage),
            micro_batch_size=16,
            **changes,
        ),
        oracle,
    )


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_resuming_is_bit_identical_on_the_same_world(tmp_path, stage):
    changes = dict(COLOSSALAI, colossalai=dict(zero_stage=stage), optimizer=dict(name="lars"))
    train = train_sharded_on if stage else train_on
    straight = train(2, tmp_path / "straight", **changes)
    again = train(2, stop_after_ten_steps(straight, tmp_path / "resumed"), **changes)
    assert len(again.losses) == 20 and again.losses == straight.losses
    for name, tensor in straight.checkpoint()["state_dict"].items():
        assert torch.equal(again.checkpoint()["state_dict"][name], tensor), name


def test_a_checkpoint_moves_from_deepspeed_over_colossalai_to_plain_torch(tmp_path):
    """ZeRO-2 of one, ZeRO-1 of the other, then whole layers, on 2, 4 and 1 ranks: as if nothing had
    happened.
    """
    lamb = dict(
        optimizer=dict(name="lamb"),
        schedule=dict(base_lr=0.01, warmup_start_lr=0.002),
        checkpoint=dict(every="5it", keep=4),
    )
    straight = train_on(1, tmp_path / "straight", engine="ddp", **lamb)
    run = train_on(2, tmp_path / "run", engine="deepspeed", deepspeed=dict(zero_stage=2), **lamb)
    forget_from(run, 10)
    run = train_sharded_on(4, run.run_dir, **STAGES[0], **lamb)
    forget_from(run, 15)
    run = train_on(1, run.run_dir, engine="ddp", **lamb)
    check_same_run(run, straight)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_batch_that_grows_during_the_run(tmp_path, stage):
    train = train_sharded_on if stage else train_on
    run = train(
        2, tmp_path / "run", **COLOSSALAI, colossalai=dict(zero_stage=stage), micro_batch_size=16, **GROWTH
    )
    assert (
        relative_difference(run.losses, train_on(1, tmp_path / "plain", engine="ddp", **GROWTH).losses) < 1e-5
    )


def test_only_the_last_micro_step_exchanges():
    assert run_on_ranks(2, alike_after_each_pass, COLOSSALAI) == [[False, True]] * 2


def test_a_checkpoint_moves_between_the_stages(tmp_path):
    straight = train_on(2, tmp_path / "straight", **COLOSSALAI)
    resumed = train_sharded_on(2, stop_after_ten_steps(straight, tmp_path / "resumed"), **STAGES[1])
    check_same_run(resumed, straight)


def stop_after_ten_steps(straight: Outcome, run_dir: Path) -> Path:
    """The run directory as it would be, had the run been stopped after the checkpoint of step 10."""
    shutil.copytree(straight.run_dir, run_dir)
    forget_from(Outcome(run_dir), 11)
    return run_dir


def forget_from(run: Outcome, step: int) -> None:
    """As if the run had been stopped before this step."""
    (run.run_dir / "summary.json").unlink()
    for path in (run.run_dir / "checkpoints").glob("step_*.pt"):
        if int(path.stem.removeprefix("step_")) >= step:
            path.unlink()
