"""The gradient noise scale while training: one answer for one batch size, whatever cuts it, under every
engine; and no trace in the run.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from lab.ranks import run_on_ranks
from lbtrain import Recipe
from lbtrain.analysis.noise_scale import WINDOW
from lbtrain.data import dataset_info
from lbtrain.engines.ddp import AUTOCAST_DTYPES, DDPEngine
from lbtrain.monitors import MicroStep, NoiseMonitor, StepResult
from lbtrain.plan.plan import make_plan
from lbtrain.runs.progress import Progress
from lbtrain.tasks import Losses, build_model, create_task
from tests.distributed.runs import SMALL, Outcome, train_on
from tests.unit.analysis.test_noise_scale import SPREAD

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


def test_it_measures_when_it_was_told_to(alone):
    found = rows(alone, "noise")
    assert [row["step"] for row in found] == [2, 4, 6] and [row["measurements"] for row in found] == [1, 2, 3]
    assert len(rows(alone, "layers")) == 3


def plain_gradients(precision: str) -> dict[str, torch.Tensor]:
    """Of the first step's eight ghost batches, by layer: [8, ...], from plain batch norm on one after the
    other.
    """
    recipe = Recipe().vary(**SMALL)
    model = build_model(recipe, dataset_info(recipe.data)).train()
    images, labels = next(
        create_task(recipe, torch.device("cpu")).batches(start=0, micro_batch_size=64, rank=0, world_size=1)
    )
    dtype, layers, found = AUTOCAST_DTYPES.get(precision), dict(model.named_parameters()), []
    for ghost, classes in zip(images.split(8), labels.split(8), strict=True):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            scores = model(ghost)
        found.append(torch.autograd.grad(F.cross_entropy(scores.float(), classes), list(layers.values())))
    return {
        name: torch.stack(ghosts).double()
        for name, ghosts in zip(layers, zip(*found, strict=True), strict=True)
    }


FIRST_STEPS = {
    "one rank, four passes": (1, dict()),
    "one rank, one pass and a part of it again": (1, dict(micro_batch_size=64)),
    "two ranks, two passes": (2, dict()),
    "two ranks, clipped afterwards": (2, dict(optimizer=dict(clip_norm=0.05))),
    "two ranks, bf16": (2, dict(precision="bf16")),
    "one rank, bf16, a part again": (1, dict(precision="bf16", micro_batch_size=64)),
    "two ranks, fp16, whose loss is scaled": (2, dict(precision="fp16")),
}


@pytest.mark.parametrize("case", FIRST_STEPS)
def test_what_is_measured_are_the_norms_that_plain_autograd_gives(case, tmp_path):
    world_size, changes = FIRST_STEPS[case]
    once = dict(
        duration="1it",
        evaluate_every="1it",
        checkpoint=dict(every="1it"),
        measure=dict(noise_scale="1it", layers=True),
    )
    run = train_on(world_size, tmp_path, **{**CHANGES, **once, **changes}, engine="ddp")
    (row,), (layers,) = rows(run, "noise"), rows(run, "layers")
    precision = changes.get("precision", "fp32")
    tolerance = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 1e-2}[precision]
    expected = plain_gradients(precision)
    # Micro-batches of 16 are two ghost batches each; where part of the batch is passed again, it is the first
    # of these.
    micro = {
        name: ghosts.unflatten(0, (4, 2)).mean(1)[: 1 if "part" in case else 4]
        for name, ghosts in expected.items()
    }
    small = sum(float(each.square().sum() / len(each)) for each in micro.values())
    norms = {name: float(ghosts.mean(0).norm()) for name, ghosts in expected.items()}
    large = sum(norm**2 for norm in norms.values())
    assert (row["small_batch"], row["large_batch"]) == (16, 64)
    assert (row["small_square"], row["large_square"]) == pytest.approx((small, large), rel=tolerance)
    assert row["noise_trace"] == pytest.approx((small - large) / (1 / 16 - 1 / 64), rel=2 * tolerance)
    assert len(norms) > 20 and layers["gradient_norms"] == pytest.approx(
        norms, rel=5 * tolerance, abs=1e-3 * large**0.5
    )


class Quadratic(nn.Module):
    """f(w) = the mean of |w - x|^2 / 2 over examples x [n, 300]; the gradient of one is w - x, with |G|^2 = 5
    where they have mean 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((300,), (5 / 300) ** 0.5))

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        return 0.5 * (self.w - examples).square().sum(1).mean()


def measured_on_a_quadratic(micro_batch_size: int) -> dict[str, Any]:
    """The noise row after WINDOW steps of 256 examples, whose standard deviations are SPREAD."""
    recipe = (
        Recipe()
        .vary(**SMALL)
        .vary(batch_size=256, micro_batch_size=micro_batch_size, measure=dict(noise_scale="1it"))
    )
    plan = make_plan(recipe, dist.get_world_size())
    task = SimpleNamespace(recipe=recipe, loss=lambda model, batch: Losses({"loss": model(*batch)}))
    model, phase = Quadratic(), plan.phases[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    engine = DDPEngine(plan, model, optimizer, torch.device("cpu"))
    monitor = NoiseMonitor(plan, task, engine, optimizer, earlier=[])
    generator = torch.Generator().manual_seed(dist.get_rank())
    for step in range(WINDOW):
        for _ in range(engine.accumulation):
            batch = (SPREAD * torch.randn(micro_batch_size, 300, generator=generator),)
            losses = task.loss(engine.model, batch)
            monitor.before_backward(MicroStep(batch, losses, 256 * step, phase))
            engine.backward(losses.total)
        monitor.before_update()
        engine.step(0.0)
        (row,) = monitor.after_step(StepResult(Progress(256 * (step + 1), step + 1), phase, 0.0))
    return vars(row)


@pytest.mark.parametrize(
    ("world_size", "micro_batch_size", "small"), [(1, 32, 32), (1, 256, 64), (2, 32, 32), (2, 128, 128)]
)
def test_a_known_covariance_is_measured_within_ten_percent(world_size, micro_batch_size, small):
    first, *others = run_on_ranks(world_size, measured_on_a_quadratic, micro_batch_size)
    trace = float(SPREAD.square().sum())
    assert (first["small_batch"], first["measurements"]) == (small, WINDOW)
    assert (first["gradient_square"], first["noise_trace"], first["noise_scale"]) == pytest.approx(
        (5, trace, trace / 5), rel=0.1
    )
    assert first["noise_scale_low"] < trace / 5 < first["noise_scale_high"]
    assert others == [first] * (world_size - 1)


CUTS = {
    "ddp, 2 ranks, 2 passes": (2, dict(engine="ddp")),
    "accelerate": (2, dict(engine="accelerate")),
    "deepspeed, stage 0": (2, dict(engine="deepspeed")),
    "deepspeed, stage 1": (2, dict(engine="deepspeed", deepspeed=dict(zero_stage=1))),
    "deepspeed, stage 2": (2, dict(engine="deepspeed", deepspeed=dict(zero_stage=2))),
    "deepspeed, stage 3": (
        2,
        dict(engine="deepspeed", deepspeed=dict(zero_stage=3), measure=dict(noise_scale="2it", layers=True)),
    ),
    "stage 2, clipped": (
        2,
        dict(engine="deepspeed", deepspeed=dict(zero_stage=2), optimizer=dict(clip_norm=0.05)),
    ),
    "stage 3, LARS": (
        2,
        dict(
            engine="deepspeed",
            deepspeed=dict(zero_stage=3),
            optimizer=dict(name="lars"),
            measure=dict(noise_scale="2it", layers=True),
        ),
    ),
}


@pytest.mark.parametrize("case", CUTS)
def test_the_estimate_does_not_depend_on_the_batch_split_or_the_engine(case, alone, tmp_path):
    world_size, changes = CUTS[case]
    if "optimizer" in changes:
        alone = train_on(
            1, tmp_path / "alone", **{**CHANGES, "optimizer": changes["optimizer"]}, engine="ddp"
        )
    other = train_on(world_size, tmp_path / "other", **{**CHANGES, **changes})
    for ours, theirs in zip(rows(alone, "noise"), rows(other, "noise"), strict=True):
        for key in ("small_square", "large_square", "gradient_square", "noise_trace"):
            assert theirs[key] == pytest.approx(ours[key], rel=2e-4), key
    for ours, theirs in zip(rows(alone, "layers"), rows(other, "layers"), strict=True):
        for key in ("weight_norms", "gradient_norms"):
            assert theirs[key] == pytest.approx(ours[key], rel=1e-3, abs=1e-6), key
    assert len(rows(other, "layers")) == 3


UNTOUCHED = {
    "one micro-batch on one rank, passed twice": (1, dict(engine="ddp", micro_batch_size=64)),
    "the same under deepspeed": (
        1,
        dict(engine="deepspeed", micro_batch_size=64, deepspeed=dict(zero_stage=1)),
    ),
    "four passes": (1, dict(engine="ddp")),
    "two ranks, stage 3": (2, dict(engine="deepspeed", deepspeed=dict(zero_stage=3))),
}


@pytest.mark.parametrize("case", UNTOUCHED)
def test_measuring_leaves_no_trace_in_the_run(case, tmp_path):
    world_size, changes = UNTOUCHED[case]
    outcomes = [
        train_on(
            world_size,
            tmp_path / str(measured),
            **{**CHANGES, **changes, "measure": dict(noise_scale=every, layers=measured)},
        )
        for measured, every in ((False, "0it"), (True, "1it"))
    ]
    assert [len(rows(outcome, "noise")) for outcome in outcomes] == [0, 6]
    assert outcomes[0].losses == outcomes[1].losses
    plain, measured = (outcome.checkpoint() for outcome in outcomes)
    assert all(
        torch.equal(tensor, measured["state_dict"][name]) for name, tensor in plain["state_dict"].items()
    )


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
    recipe = Recipe().vary(**SMALL)
    start = dict(build_model(recipe, dataset_info(recipe.data)).named_parameters())
    end = alone.checkpoint()["state_dict"]
    exact = sum(float((end[name] - p.detach()).double().square().sum()) for name, p in start.items()) ** 0.5
    assert [row["step"] for row in rows(alone, "distance")] == [1, 2, 3, 4, 5, 6]
    assert rows(alone, "distance")[-1]["distance"] == pytest.approx(exact, rel=1e-6) and exact > 0
