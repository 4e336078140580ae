"""Same recipe, same seed, same global batch: the same detection run, whatever it runs on."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lab.ranks import run_on_ranks
from lbtrain.data import registry
from lbtrain.data.instances import InstanceBatch
from lbtrain.tasks import create_task
from tests.distributed.runs import Outcome, relative_difference
from tests.tiny_detection import KINDS, run_tiny, tiny

EVAL_IMAGES = 10


def detect_on(world_size: int, run_dir: Path, *, dtype: torch.dtype = torch.float32, **changes) -> Outcome:
    run_on_ranks(world_size, run_tiny, changes, str(run_dir), EVAL_IMAGES, dtype)
    return Outcome(run_dir)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Plain torch, one process, no accumulation."""
    return detect_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "changes"),
    [
        (1, dict(engine="ddp", micro_batch_size=2, data=dict(workers=1))),
        (2, dict(engine="ddp")),
        (2, dict(engine="deepspeed", micro_batch_size=2)),
    ],
)
def test_any_batch_split_gives_the_same_losses_and_precision(oracle, tmp_path, world_size, changes):
    run = detect_on(world_size, tmp_path / "run", **changes)
    assert len(run.losses) == 6
    assert relative_difference(run.losses, oracle.losses) < 1e-5
    for part in ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"):
        ours, theirs = (
            [row[part] for row in outcome.rows if row["kind"] == "train"] for outcome in (run, oracle)
        )
        assert relative_difference(ours, theirs) < 1e-4, part
    for name, value in oracle.evaluations[-1].items():
        if "_ap" in name:
            assert run.evaluations[-1][name] == pytest.approx(value, abs=1e-3), name


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])
def test_detectors_of_boxes_are_the_same_run_on_any_batch_split(tmp_path, kind):
    """Graded by boxes alone: there is no number of masks."""
    alone = detect_on(1, tmp_path / "alone", engine="ddp", **KINDS[kind])
    for number, changes in enumerate((dict(engine="ddp"), dict(engine="deepspeed", micro_batch_size=2))):
        run = detect_on(2, tmp_path / str(number), **KINDS[kind], **changes)
        assert relative_difference(run.losses, alone.losses) < 1e-5
        scores, expected = run.evaluations[-1], alone.evaluations[-1]
        assert scores["box_ap"] == pytest.approx(expected["box_ap"], abs=1e-3)
        assert not [name for name in scores if "mask" in name]


def score_near_the_truth(eval_images: int) -> dict[str, float]:
    """One rank's part of the scoring of detections that are known beforehand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            registry._FACTS,
            "shapes",
            dataclasses.replace(registry._FACTS["shapes"], eval_examples=eval_images),
        )
        task = create_task(tiny(), torch.device("cpu"))
    return task.evaluate(
        near_the_truth, micro_batch_size=2, rank=dist.get_rank(), world_size=dist.get_world_size()
    ).metrics


def near_the_truth(batch: InstanceBatch) -> list[dict[str, torch.Tensor]]:
    """In place of a model: the true objects, moved a little, with scores, by the number of their image."""
    found = []
    for index, target in zip(batch.indices, batch.targets, strict=True):
        random, count = torch.Generator().manual_seed(index), len(target["labels"])
        shift = int(torch.randint(4, (), generator=random))
        found.append(
            {
                "boxes": target["boxes"] + 2 * torch.randn(count, 4, generator=random),
                "labels": target["labels"],
                "scores": torch.rand(count, generator=random),
                "masks": target["masks"].roll(shift, 2)[:, None].float(),
            }
        )
    return found


@pytest.mark.slow
def test_precision_is_that_of_one_rank_on_any_number():
    """Eleven images: neither two nor three ranks have equally many."""
    (scored_alone,) = run_on_ranks(1, score_near_the_truth, 11)
    assert 5 < scored_alone["mask_ap"] < 95 and 5 < scored_alone["box_ap"] < 95 and len(scored_alone) >= 8
    for world_size in (2, 3):
        assert run_on_ranks(world_size, score_near_the_truth, 11) == [scored_alone] * world_size


@pytest.mark.slow
def test_two_batch_splits_differ_by_rounding_alone(tmp_path):
    """Twenty steps at five times the rate, where fp32 parts further than 1e-5, for one rounding becomes
    another proposal and grows from there. An error in what a loss or a gradient is a mean over would not care
    how many digits there are.
    """
    longer = dict(
        duration="20it",
        schedule=dict(base_lr=0.01),
        checkpoint=dict(every="1dur"),
        engine="ddp",
        dtype=torch.float64,
    )
    whole = detect_on(1, tmp_path / "whole", **longer)
    split = detect_on(2, tmp_path / "cut", micro_batch_size=2, **longer)
    assert len(whole.losses) == 20
    assert relative_difference(split.losses, whole.losses) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "accelerate", "deepspeed"])
@pytest.mark.parametrize("micro_batch_size", [2, 4])
def test_every_engine_on_two_ranks(oracle, tmp_path, engine, micro_batch_size):
    run = detect_on(2, tmp_path / "run", engine=engine, micro_batch_size=micro_batch_size)
    assert relative_difference(run.losses, oracle.losses) < 1e-5


def test_the_noise_scale_of_a_single_micro_step_is_measured_and_leaves_no_trace(oracle, tmp_path):
    """One micro-batch on one rank: two of its eight images, one whole loss, are passed a second time."""
    run = detect_on(1, tmp_path / "run", engine="ddp", measure=dict(noise_scale="2it"))
    found = [row for row in run.rows if row["kind"] == "noise"]
    assert [(row["step"], row["small_batch"], row["large_batch"]) for row in found] == [
        (2, 2, 8),
        (4, 2, 8),
        (6, 2, 8),
    ]
    assert all(row["small_square"] > 0 and row["large_square"] > 0 for row in found)
    assert run.losses == oracle.losses


@pytest.mark.slow
def test_resuming_is_bit_identical(oracle, tmp_path):
    resumed = tmp_path / "resumed"
    shutil.copytree(oracle.run_dir, resumed)
    (resumed / "checkpoints/step_000000006.pt").unlink()
    (resumed / "summary.json").unlink()
    again = detect_on(1, resumed, engine="ddp")
    assert again.losses == oracle.losses
    for name, tensor in oracle.checkpoint()["state_dict"].items():
        assert torch.equal(again.checkpoint()["state_dict"][name], tensor), name
    assert again.evaluations[-1]["mask_ap"] == oracle.evaluations[-1]["mask_ap"]
