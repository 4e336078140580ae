"""Images that grow during the run, in batches that change with them: the same run on anything, and after a
stop at any step around a change.
"""

import shutil

import pytest
import torch
import torch.nn.functional as F

from tests.distributed.runs import SMALL, Outcome, relative_difference, train_on

RESIZING = dict(
    schedule=dict(
        base_lr=0.05,
        base_batch_size=64,
        warmup="3it",
        warmup_start_lr=0.01,
        decay="step",
        milestones=["14it"],
        image_sizes=["0it:4", "5.5it:6:128", "14it:8"],
    ),
    evaluate_every="1ep",
    checkpoint=dict(every="1it", keep=99),
)
STEPS = [(64, 4)] * 6 + [(128, 6)] * 4 + [(64, 8)] * 6
"""Batch size and pixels a side of each step: 1,280 examples in all."""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp", **RESIZING)


def test_a_loop_written_by_hand_gives_the_same_losses(oracle):
    from lbtrain import Recipe
    from lbtrain.data import dataset_info, open_source
    from lbtrain.data.stream import SampleStream
    from lbtrain.nn import GhostStatistics, convert_to_ghost_batch_norm
    from lbtrain.tasks.classification import build_model

    recipe = Recipe().vary(**SMALL)
    model = convert_to_ghost_batch_norm(build_model(recipe, dataset_info(recipe.data)), 8)
    source, statistics = open_source(recipe.data, train=True, seed=0), GhostStatistics(model)
    weights = [weight for weight in model.parameters() if weight.dim() > 1]
    rest = [weight for weight in model.parameters() if weight.dim() == 1]
    optimizer = torch.optim.SGD(
        [dict(params=weights, weight_decay=1e-4), dict(params=rest)], lr=1, momentum=0.9
    )
    seen, losses = 0, []
    for batch_size, pixels in STEPS:
        planned = 0.01 + 0.04 * seen / 192 if seen < 192 else 0.05 if seen < 14 * 64 else 0.005
        for group in optimizer.param_groups:
            group["lr"] = planned * batch_size / 64  # the linear rule
        images, labels = source.fetch(SampleStream(1440, 0).block(seen, batch_size))
        images = F.interpolate(images, (pixels, pixels), mode="bilinear", antialias=True)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        statistics.start()
        statistics.finish()
        losses.append(loss.item())
        seen += batch_size
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
    shutil.copytree(oracle.run_dir, tmp_path / "run")
    for later in range(step + 1, len(STEPS) + 1):
        (tmp_path / f"run/checkpoints/step_{later:09}.pt").unlink()
    (tmp_path / "run/summary.json").unlink()
    again = train_on(1, tmp_path / "run", engine="ddp", **RESIZING)
    assert again.losses == oracle.losses
    for name, tensor in oracle.checkpoint()["state_dict"].items():
        assert torch.equal(again.checkpoint()["state_dict"][name], tensor), name
