"""Frozen stages and parameters without gradient: the same run on one rank, on two and under any engine."""

import pytest
import timm
import torch

import tests.odd_models  # noqa: F401  registers its models
from lab.ranks import RankFailed
from tests.distributed.runs import Outcome, relative_difference, train_on

OPTIMIZER = dict(weight_decay=0.01)
ELSEWHERE = [
    (2, dict(engine="ddp")),
    (2, dict(engine="accelerate")),
    (2, dict(engine="deepspeed")),
    (2, dict(engine="deepspeed", deepspeed=dict(zero_stage=1))),
]
LATER_STAGES = [(2, dict(engine="deepspeed", deepspeed=dict(zero_stage=stage))) for stage in (2, 3)]
RUNS: dict[str, Outcome] = {}


def on_one_rank(name: str, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    if name not in RUNS:
        folder = tmp_path_factory.mktemp(name) / "run"
        measured = dict(distance=True, noise_scale="10it", layers=True)
        RUNS[name] = train_on(
            1, folder, engine="ddp", model=dict(name=name), optimizer=OPTIMIZER, measure=measured
        )
    return RUNS[name]


def initial(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10, in_chans=1).state_dict()


@pytest.mark.parametrize(("world_size", "engine"), ELSEWHERE, ids=str)
@pytest.mark.parametrize("name", ["odd_unread", "odd_never_read", "odd_frozen_stem"])
def test_the_same_run_elsewhere(tmp_path, tmp_path_factory, name, world_size, engine):
    oracle = on_one_rank(name, tmp_path_factory)
    run = train_on(world_size, tmp_path / "run", model=dict(name=name), optimizer=OPTIMIZER, **engine)
    assert relative_difference(run.losses, oracle.losses) < 1e-5
    weights, expected = run.checkpoint()["state_dict"], oracle.checkpoint()["state_dict"]
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)


def test_a_parameter_without_gradient_is_not_even_decayed(tmp_path_factory):
    weights, before = (
        on_one_rank("odd_unread", tmp_path_factory).checkpoint()["state_dict"],
        initial("odd_unread"),
    )
    for name in ("scale", "extra.weight", "extra.bias"):
        assert torch.equal(weights[name], before[name])
    assert not torch.equal(weights["head.weight"], before["head.weight"])


def test_a_parameter_without_gradient_is_not_measured(tmp_path_factory):
    rows = on_one_rank("odd_unread", tmp_path_factory).rows
    distances, norms = ([row[name] for row in rows if name in row] for name in ("distance", "gradient_norms"))
    assert len(distances) == 20 and len(norms) == 2
    assert "head.weight" in norms[0] and "extra.weight" not in norms[0]


@pytest.mark.parametrize(
    ("name", "frozen", "moving"),
    [("odd_frozen_stem", "stem", "stage"), ("odd_frozen_stage", "stage", "stem")],
)
def test_frozen_stages_keep_their_statistics_and_the_others_move(tmp_path_factory, name, frozen, moving):
    weights = on_one_rank(name, tmp_path_factory).checkpoint()["state_dict"]
    assert torch.equal(weights[f"{frozen}.1.running_mean"], torch.zeros(8))
    assert torch.equal(weights[f"{frozen}.1.running_var"], torch.ones(8))
    assert weights[f"{frozen}.1.num_batches_tracked"] == 0
    assert weights[f"{moving}.1.num_batches_tracked"] == 20
    assert (weights[f"{moving}.1.running_mean"] != 0).all()


@pytest.mark.parametrize(
    ("world_size", "engine"), [(1, dict(engine="ddp")), *ELSEWHERE, *LATER_STAGES], ids=str
)
def test_a_parameter_that_gets_a_gradient_in_some_steps_is_named(tmp_path, world_size, engine):
    with pytest.raises(
        RankFailed, match=r"extra.weight got no gradient|where the first pass called extra: ZeRO-3"
    ):
        train_on(world_size, tmp_path / "run", model=dict(name="odd_sometimes_read"), **engine)


@pytest.mark.parametrize(
    ("world_size", "engine"), [(1, dict(engine="ddp")), *ELSEWHERE, *LATER_STAGES], ids=str
)
def test_a_parameter_that_is_left_out_and_read_in_a_later_step_is_named(tmp_path, world_size, engine):
    with pytest.raises(RankFailed, match=r"RecipeError: In this step on rank \d scale is used, though"):
        train_on(world_size, tmp_path / "run", model=dict(name="odd_read_later"), **engine)
