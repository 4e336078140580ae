"""The gradient noise scale while training: one answer for one batch size, whatever cuts it, under every engine; and no trace in the run."""

import pytest
import torch

from tests.distributed.runs import Outcome, train_on

CHANGES = dict(
    duration="6it",
    batch_size=64,
    micro_batch_size=16,
    log_every="1it",
    evaluate_every="6it",
    checkpoint=dict(every="6it"),
    measure=dict(noise_scale="2it", layers=True, distance=True),
)


def rows(outcome: Outcome, kind: str) -> list[dict]:
    return [row for row in outcome.rows if row["kind"] == kind]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One rank, four passes a step."""
    return train_on(1, tmp_path_factory.mktemp("alone"), **CHANGES, engine="ddp")


def test_what_is_measured_is_what_the_gradients_are(alone):
    found = rows(alone, "noise")
    assert [row["step"] for row in found] == [2, 4, 6] and [row["measurements"] for row in found] == [1, 2, 3]
    assert all((row["small_batch"], row["large_batch"]) == (16, 64) and row["small_square"] > row["large_square"] > 0 for row in found)
    for row, layers in zip(found, rows(alone, "layers"), strict=True):
        assert sum(norm**2 for norm in layers["gradient_norms"].values()) == pytest.approx(row["large_square"], rel=1e-5)
        assert len(layers["gradient_norms"]) == len(layers["weight_norms"]) == len(layers["noise_scales"]) > 20


CUTS = {
    "ddp, 2 ranks, 2 passes": (2, dict(engine="ddp")),
    "accelerate": (2, dict(engine="accelerate")),
    "deepspeed, stage 0": (2, dict(engine="deepspeed")),
    "deepspeed, stage 1": (2, dict(engine="deepspeed", deepspeed=dict(zero_stage=1))),
    "deepspeed, stage 2": (2, dict(engine="deepspeed", deepspeed=dict(zero_stage=2))),
    "deepspeed, stage 3": (2, dict(engine="deepspeed", deepspeed=dict(zero_stage=3), measure=dict(noise_scale="2it", layers=True))),
    "stage 2, clipped": (2, dict(engine="deepspeed", deepspeed=dict(zero_stage=2), optimizer=dict(clip_norm=0.05))),
    "stage 3, LARS": (
        2,
        dict(engine="deepspeed", deepspeed=dict(zero_stage=3), optimizer=dict(name="lars"), measure=dict(noise_scale="2it", layers=True)),
    ),
}


@pytest.mark.parametrize("case", CUTS)
def test_the_estimate_does_not_depend_on_the_cut_or_the_engine(case, alone, tmp_path):
    world_size, changes = CUTS[case]
    if "optimizer" in changes:
        alone = train_on(1, tmp_path / "alone", **{**CHANGES, "optimizer": changes["optimizer"]}, engine="ddp")
    other = train_on(world_size, tmp_path / "other", **{**CHANGES, **changes})
    for ours, theirs in zip(rows(alone, "noise"), rows(other, "noise"), strict=True):
        for key in ("small_square", "large_square", "gradient_square", "noise_trace"):
            assert theirs[key] == pytest.approx(ours[key], rel=2e-4), key
    for ours, theirs in zip(rows(alone, "layers"), rows(other, "layers"), strict=True):
        for key in ("weight_norms", "gradient_norms"):
            assert theirs[key] == pytest.approx(ours[key], rel=1e-3, abs=1e-6), key
    assert len(rows(other, "layers")) == 3


def test_clipping_comes_after_the_measurement(alone, tmp_path):
    clipped = train_on(1, tmp_path, **CHANGES, engine="ddp", optimizer=dict(clip_norm=0.05))
    ours, theirs = rows(alone, "layers")[0], rows(clipped, "layers")[0]
    assert sum(norm**2 for norm in theirs["gradient_norms"].values()) > 0.05**2
    assert ours["gradient_norms"].keys() == theirs["gradient_norms"].keys()


UNTOUCHED = {
    "one micro-batch on one rank, passed twice": (1, dict(engine="ddp", micro_batch_size=64)),
    "the same under deepspeed": (1, dict(engine="deepspeed", micro_batch_size=64, deepspeed=dict(zero_stage=1))),
    "four passes": (1, dict(engine="ddp")),
    "two ranks, stage 3": (2, dict(engine="deepspeed", deepspeed=dict(zero_stage=3))),
}


@pytest.mark.parametrize("case", UNTOUCHED)
def test_measuring_leaves_no_trace_in_the_run(case, tmp_path):
    world_size, changes = UNTOUCHED[case]
    outcomes = [
        train_on(world_size, tmp_path / str(measured), **{**CHANGES, **changes, "measure": dict(noise_scale=every, layers=measured)})
        for measured, every in ((False, "0it"), (True, "1it"))
    ]
    assert [len(rows(outcome, "noise")) for outcome in outcomes] == [0, 6]
    assert outcomes[0].losses == outcomes[1].losses
    plain, measured = (outcome.checkpoint() for outcome in outcomes)
    assert all(torch.equal(tensor, measured["state_dict"][name]) for name, tensor in plain["state_dict"].items())


def test_a_part_of_the_batch_is_a_batch_like_any_other(tmp_path):
    """With 16 of 64 passed again, the small gradient is that of the first micro-batch of a run that makes four passes."""
    found = rows(train_on(1, tmp_path, **{**CHANGES, "micro_batch_size": 64}, engine="ddp"), "noise")
    assert all((row["small_batch"], row["large_batch"]) == (16, 64) for row in found)
    assert all(row["small_square"] > row["large_square"] for row in found)


def test_the_average_goes_on_after_a_restart(tmp_path):
    changes = {**CHANGES, "checkpoint": dict(every="3it")}
    whole = train_on(1, tmp_path / "whole", **changes, engine="ddp")
    train_on(1, tmp_path / "parts", **changes, engine="ddp")
    for checkpoint in sorted((tmp_path / "parts" / "checkpoints").glob("step_000000006*")):
        checkpoint.unlink()
    (tmp_path / "parts" / "summary.json").unlink()
    parts = train_on(1, tmp_path / "parts", **changes, engine="ddp")
    assert rows(parts, "noise") == rows(whole, "noise") and rows(parts, "distance") == rows(whole, "distance")


def test_the_distance_is_that_of_the_weights(alone):
    from lbtrain.data import facts
    from lbtrain.recipe import Recipe
    from lbtrain.tasks import build_model
    from tests.distributed.runs import SMALL

    recipe = Recipe().vary(**SMALL)
    start = dict(build_model(recipe, facts(recipe.data)).named_parameters())
    end = alone.checkpoint()["state_dict"]
    exact = sum(float((end[name] - p).double().square().sum()) for name, p in start.items()) ** 0.5
    assert [row["step"] for row in rows(alone, "distance")] == [1, 2, 3, 4, 5, 6]
    assert rows(alone, "distance")[-1]["distance"] == pytest.approx(exact, rel=1e-6) and exact > 0
