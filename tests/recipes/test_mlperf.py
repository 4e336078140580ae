"""MLPerf's reference convergence points are recipes: every number of published/mlperf_rcp.csv."""

import math

import pytest

from lbtrain.plan.scaling import peak_lr
from tests.recipes.tables import rows
from tests.recipes.test_published_settings import milestones, plan
from tests.recipes.test_recipes import load, named

RESNET = [row for row in rows("mlperf_rcp") if (row["benchmark"], row["rcp_version"]) == ("resnet", "4.0.0")]
MASK_RCNN = [row for row in rows("mlperf_rcp") if row["benchmark"] == "maskrcnn"]
RETINANET = [row for row in rows("mlperf_rcp") if row["benchmark"] == "retinanet"]


def test_every_point_is_there():
    assert (len(RESNET), len(MASK_RCNN), len(RETINANET)) == (10, 7, 9)


@pytest.mark.parametrize("row", RESNET, ids=lambda row: row["batch_size"])
def test_a_point_of_resnet(row):
    recipe = load(named(f"resnet50_mlperf_{row['batch_size']}"))["recipe"]
    found = plan(recipe)
    ours = (recipe.batch_size, peak_lr(recipe), recipe.optimizer.weight_decay, recipe.optimizer.momentum)
    names = ("batch_size", "base_lr", "weight_decay", "momentum")
    assert ours == pytest.approx([float(row[name]) for name in names])
    assert recipe.bn_batch_size == int(row["bn_span"])
    assert str(recipe.schedule.warmup) == f"{row['warmup_epochs']}ep"
    # decay_steps has two meanings in the file: after the warm-up, or of the whole run.
    after = found.total_steps - math.ceil(found.warmup_steps)
    assert float(row["decay_steps"]) in (after, after + 1, found.total_steps)
    lengths = [float(text) for text in row["schedule_epochs_derived"].split(" or ")]
    epochs = found.total_examples / found.train_examples
    assert min(abs(epochs - length) for length in lengths) < 0.03
    assert math.ceil(epochs) >= float(row["max"]), "every run of the reference ends by then"
    assert (found.learning_rate(0), found.learning_rate(1)) == (0.0, 1e-4)


@pytest.mark.parametrize("row", RESNET, ids=lambda row: row["batch_size"])
def test_the_expected_epochs_are_the_mean_of_the_references_runs_and_their_range(row):
    expect = load(named(f"resnet50_mlperf_{row['batch_size']}"))["recipe"].expect
    runs = [float(epochs) for epochs in row["epochs_to_converge"].split(";")]
    assert expect.value == pytest.approx(sum(runs) / len(runs), abs=0.006)
    assert all(abs(run - expect.value) <= expect.tolerance for run in runs)
    widest = max(abs(run - expect.value) for run in runs)
    assert expect.tolerance <= max(1.0, widest + 0.1), "an epoch at least, that between two evaluations"


@pytest.mark.parametrize("row", MASK_RCNN, ids=lambda row: row["batch_size"])
def test_a_point_of_mask_rcnn(row):
    recipe = load(named(f"mask_rcnn_mlperf_{row['batch_size']}"))["recipe"]
    assert (recipe.batch_size, peak_lr(recipe)) == (int(row["batch_size"]), float(row["base_lr"]))
    assert milestones(recipe, "it") == [float(text) for text in row["decay_boundary_steps"].split(";")]
    assert str(recipe.schedule.warmup) == f"{row['warmup_steps']}it"
    start = float(row["base_lr"]) - int(row["warmup_steps"]) * float(row["warmup_factor"])
    assert recipe.schedule.warmup_start_lr == pytest.approx(max(0.0, start), abs=1e-9)
    assert row["num_image_candidates"] in ("1000", "6000")  # 6,000 are of all images of a GPU
    assert recipe.model.args["rpn_post_nms_top_n_train"] == 1000
    assert list(map(str, recipe.stop_at)) == ["box_ap>=37.7", "mask_ap>=33.9"]
    assert plan(recipe).total_examples / plan(recipe).train_examples >= float(row["max"])


@pytest.mark.parametrize("row", RETINANET, ids=lambda row: row["batch_size"])
def test_a_point_of_retinanet(row):
    """Adam of torch's defaults without decay, a warm-up from a thousandth of the rate, and no decay after."""
    recipe = load(named(f"retinanet_mlperf_{row['batch_size']}"))["recipe"]
    found, form = plan(recipe), recipe.optimizer
    assert (recipe.batch_size, peak_lr(recipe)) == (int(row["batch_size"]), float(row["base_lr"]))
    assert (form.name, form.beta1, form.beta2, form.eps, form.weight_decay) == ("adamw", 0.9, 0.999, 1e-8, 0)
    assert row["optimizer"] == "Adam" and float(row["weight_decay"]) == 0
    assert str(recipe.schedule.warmup) == f"{row['warmup_epochs']}ep"
    assert "input 800x800" in row["reference_settings_not_in_json"]
    assert (recipe.data.square, recipe.data.short_edges) == (True, ["800"])
    rate = found.learning_rate
    assert (rate(0), rate(1)) == pytest.approx((rate.peak * float(row["warmup_factor"]), rate.peak))
    assert row["target_quality"] == "box mAP 0.34" and list(map(str, recipe.stop_at)) == ["box_ap>=34.0"]
    assert found.total_examples / found.train_examples >= float(row["max"])
    assert (
        f"needs {float(row['mean']):.1f} epochs ({row['n']} runs, {row['min']} to {row['max']})"
        in " ".join(named(f"retinanet_mlperf_{row['batch_size']}").read_text().split())
    )
