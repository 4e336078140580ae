"""Targets at which a run ends: what they accept, what is rejected, and a run that ends there."""

import json

import pytest

from lbtrain import Expectation, Recipe
from lbtrain.errors import RecipeError
from lbtrain.plan.plan import make_plan
from lbtrain.recipe.targets import Target, all_reached
from lbtrain.run import run
from tests.tiny_detection import KINDS, TINY

BOXES = TINY | KINDS["faster_rcnn"] | dict(model=TINY["model"] | KINDS["faster_rcnn"]["model"])


@pytest.mark.parametrize(
    ("text", "metrics", "reached"),
    [
        ("top1_accuracy>=75.9", dict(top1_error=24.1), True),
        ("top1_accuracy>=75.9", dict(top1_error=24.2), False),
        ("top1_error<=24.1", dict(top1_error=24.1), True),
        ("mask_ap>=33.9", dict(mask_ap=34.0), True),
        ("mask_ap_small>=3", dict(mask_ap=34.0), False),
    ],
)
def test_a_target_is_an_error_or_its_accuracy(text, metrics, reached):
    assert Target.parse(text).is_reached(metrics) is reached and str(Target.parse(text)) == text
    assert not all_reached([], metrics)


def test_a_target_that_is_met_exactly_is_reached():
    for hits in range(10_001):
        metrics = dict(top1_error=100 * (1 - hits / 10_000))
        for text in (f"top1_accuracy>={hits / 100:.2f}", f"top1_error<={(10_000 - hits) / 100:.2f}"):
            assert Target.parse(text).is_reached(metrics), (text, metrics)
        if hits < 10_000:
            assert not Target.parse(f"top1_accuracy>={(hits + 1) / 100:.2f}").is_reached(metrics)


@pytest.mark.parametrize("text", ["top1_accuracy", "top1_error=3", "top1_error>=x", "top1_error>3", ">=3"])
def test_another_word_is_rejected(text):
    with pytest.raises(RecipeError, match=r"a target is a metric, >= or <=, and a number"):
        Recipe().vary(stop_at=[text])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(stop_at=["top2_error<=3"]), "evaluations have no top2_error"),
        (dict(stop_at=["mask_ap>=3"]), "evaluations have no mask_ap. Write top1_accuracy>="),
        (dict(stop_at=["mask_ap>=3"], **BOXES), "evaluations have no mask_ap. Write box_ap>="),
        (dict(stop_at=["ema_top1_error<=3"]), "Set ema.decay"),
        (
            dict(stop_at=["loss<=3"], data=dict(name="imagenet", validation_root="none")),
            "needs evaluations, and data.validation_root=none",
        ),
    ],
)
def test_a_target_that_no_evaluation_reaches_is_rejected(changes, said):
    with pytest.raises(RecipeError, match=said):
        make_plan(Recipe().vary(**changes), 1)


@pytest.fixture
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_a_run_ends_at_its_target_is_graded_and_is_not_continued(tmp_path, alone):
    """Every evaluation reaches an error of 100 %, the first one ends the run."""
    expect = Expectation("epochs", 32 * 2 / 1440, 0.001, "by hand", target="top1_error<=100")
    recipe = Recipe().vary(
        model=dict(name="cifar_resnet8"),
        batch_size=32,
        bn_batch_size=8,
        duration="6it",
        evaluate_every="2it",
        checkpoint=dict(every="6it"),
        stop_at=["top1_error<=100"],
        engine="ddp",
        run_dir=str(tmp_path),
        expect=expect,
    )
    summary = run(recipe, "x")
    assert (summary["step"], summary["expectation"]["outcome"]) == (2, "met")
    assert len(list((tmp_path / "checkpoints").glob("step_*02.pt"))) == 1
    assert run(recipe, "x") == summary
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [2]
    (tmp_path / "summary.json").unlink()  # as a crash between checkpoint and summary leaves it
    again = run(recipe, "x")
    assert (again["step"], again["top1_error"]) == (2, summary["top1_error"])
    longer = run(recipe.vary(stop_at=[]), "x")
    assert longer["step"] == 6, "without the target it continues to its end"
