"""A sweep whose runs are made up, so that the curve that it must find is known; and whose runs it may use
again.
"""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from lbtrain.errors import RecipeError
from lbtrain.plan.scaling import peak_lr
from lbtrain.recipe.files import load_recipe, shipped
from tests.run_rows import write_rows
from tools.landscape.__main__ import main
from tools.landscape.chart import sweep_chart
from tools.landscape.critical_batch import fit
from tools.landscape.goals import Goal, Target, steps_to
from tools.landscape.runs import Run
from tools.landscape.sweep import arms_of
from tools.landscape.sweep_report import _measured
from tools.study import jobs, publish

NOISE = 100
ORIGIN = {"commit": "abc1234", "hardware": "2 cores", "versions": {"python": "3.11", "torch": "2.5"}}
RECIPE = """
from lbtrain import Recipe
recipe = Recipe().vary(bn_batch_size=8, model=dict(name="cifar_resnet8"), data=dict(name="{data}"))
"""


@pytest.fixture
def trained(monkeypatch):
    """The folders that were trained in: 20 + 2,000 / batch steps to the loss, at a noise scale of NOISE."""
    folders = []

    def train(listed, out, *, launcher, ranks):
        for job in listed:
            if not job.ended:
                train_one(job.load(), Path(job.run_dir))

    def train_one(recipe, folder):
        size = recipe.batch_size
        folders.append(folder)
        folder.mkdir(parents=True)
        reached = 20 + 2000 // size
        losses = {reached - 1: 1.0, reached + 1: 0.1}
        rows = [
            {"kind": "train", "step": step, "examples": step * size, "loss": loss}
            for step, loss in losses.items()
        ]
        errors = {reached - 10: 45.0, reached + 10: 25.0}
        rows += [
            {"kind": "eval", "step": step, "examples": step * size, "top1_error": error}
            for step, error in errors.items()
        ]
        for step in range(2, reached, 2):
            wobble = 1 + 0.01 * (-1) ** (step // 2)
            squares = {
                "small_square": (1 + 4 * NOISE / size) * wobble,
                "large_square": (1 + NOISE / size) * wobble,
            }
            sizes = {"small_batch": size // 4, "large_batch": size}
            rows.append({"kind": "noise", "step": step, "examples": step * size, **sizes, **squares})
        (folder / "recipe.yaml").write_text(recipe.to_yaml())
        write_rows(folder, rows)
        (folder / "summary.json").write_text(json.dumps({**ORIGIN, "seconds": 1.0, "step": 10}))

    monkeypatch.setattr(jobs, "run_jobs", train)
    return folders


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The command line of a sweep of three batch sizes, in an empty folder with two recipes."""
    for data in ("digits", "mnist"):
        (tmp_path / f"{data}.py").write_text(RECIPE.format(data=data))
    monkeypatch.chdir(tmp_path)
    return [
        "sweep",
        "digits.py",
        "--loss",
        "0.1",
        "--batch-sizes",
        "16,40,200",
        "--rates",
        "1",
        "--seeds",
        "1",
        "--epochs",
        "1",
    ]


def test_the_measured_curve_and_what_the_noise_scale_says_are_written_with_their_origin(words, trained):
    assert main(words) == 0
    found = json.loads(Path("runs/landscape-sweep/digits/steps.json").read_text())
    (curve,) = found["goals"]
    assert [point["steps"] for point in curve["points"]] == [145, 70, 30]
    assert (
        curve["measured"]["critical_batch"]
        == pytest.approx(NOISE, rel=0.02)
        == curve["predicted"]["critical_batch"]
    )
    assert found["command"] == "python -m tools.landscape " + " ".join(words)
    assert found["provenance"].endswith("abc1234 on 2 cores; python 3.11, torch 2.5")
    page = Path("runs/landscape-sweep/digits/steps.html").read_text()
    assert found["command"] in page and "abc1234 on 2 cores; python 3.11, torch 2.5" in page
    # As a published result it belongs to no recipe.
    assert publish.measured(found, "steps") == {} and "| 145.0 (145.0)" in publish.block(found, "steps")


def test_a_noise_scale_that_says_nothing_does_not_take_the_measured_curve_along(
    words, trained, monkeypatch, capsys
):
    monkeypatch.setattr(importlib.import_module(__name__), "NOISE", 0)
    assert main(words) == 0
    assert (
        "the noise scale of the run at batch 40 says no critical batch in its 34 measurements"
        in capsys.readouterr().out
    )
    folder = Path("runs/landscape-sweep/digits")
    found = json.loads((folder / "steps.json").read_text())
    (curve,) = found["goals"]
    assert curve["measured"]["critical_batch"] == pytest.approx(100, rel=0.02) and curve["predicted"] is None
    assert (folder / "steps.png").exists() and "says no critical batch" in (folder / "steps.html").read_text()


def test_a_second_time_nothing_is_trained_and_another_recipe_has_its_own_folder(words, trained):
    assert main(words) == main(words) == 0
    assert len(trained) == 3
    assert main([*words[:1], "mnist.py", *words[2:]]) == 0
    assert len(set(trained)) == 6


def test_a_folder_that_is_named_keeps_its_name(words, trained):
    assert main([*words, "--out", "RECIPES/RUN_DIR"]) == 0
    assert Path("RECIPES/RUN_DIR/steps.json").exists()


CHANGED = {
    "another recipe": (["sweep", "mnist.py"], "data.name was digits, is mnist"),
    "longer runs": (["--epochs", "3"], "duration was"),
    "more steps": (["--least-steps", "500"], "duration was"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_runs_of_another_sweep_are_not_taken_for_its_own(case, words, trained, capsys):
    changes, message = CHANGED[case]
    assert main([*words, "--out", "out"]) == 0
    report = Path("out/steps.json").read_text()
    other = [*changes, *words[2:]] if changes[0] == "sweep" else [*words, *changes]
    assert main([*other, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert message in said and "choose another --out" in said
    assert len(trained) == 3 and Path("out/steps.json").read_text() == report


ERRORS = ["--errors", "40,30"]


@pytest.fixture
def error_words(words):
    """The same sweep, to two errors."""
    return [words[0], words[1], *ERRORS, *words[4:]]


def test_errors_are_goals_of_one_sweep_whose_runs_end_at_the_lowest(error_words, trained, capsys):
    assert main([*error_words, "stop_at=top1_error<=1"]) == 0
    (first, second) = json.loads(Path("runs/landscape-sweep/digits/steps.json").read_text())["goals"]
    assert [first["value"], second["value"]] == [40, 30]
    assert [point["steps"] for point in first["points"]] == [140, 65, 25], "between two evaluations"
    assert [point["steps"] for point in second["points"]] == [150, 75, 35]
    recipe = Run(trained[0]).recipe
    assert [f"{each}" for each in recipe.stop_at] == ["top1_error<=30"]
    assert recipe.evaluate_every.value == round(1440 / recipe.batch_size / 2)
    said = capsys.readouterr().out
    assert said.count("measured critical batch") == 2
    assert "| a top-1 error of 30 % |   200 | 35.0 (35.0)" in said
    assert "a top-1 error of 30 %: at batch 16, 40, 200 no larger rate than the best was tried" in said


def test_a_goal_that_is_not_reached_does_not_take_the_others_along(error_words, trained, capsys):
    error_words[3] = "40,20"
    assert main(error_words) == 0
    assert (
        "a top-1 error of 20 % was reached at 0 batch sizes, and a curve needs 3" in capsys.readouterr().out
    )
    (curve,) = json.loads(Path("runs/landscape-sweep/digits/steps.json").read_text())["goals"]
    assert curve["value"] == 40


def test_an_error_at_the_first_evaluation_was_reached_there_at_the_latest(tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    write_rows(tmp_path, [{"kind": "eval", "step": 7, "examples": 7, "top1_error": 20.0}])
    assert Goal("top1_error", 30).steps(Run(tmp_path)) == 7


def points_at(sizes, seeds, critical=100.0):
    """Twenty steps at least, with seeds that differ by so many per cent of them."""
    exact = {size: 20 * (1 + critical / size) for size in sizes}
    return [
        {"batch_size": size, "each": [steps * (1 + seed / 100) for seed in seeds]}
        for size, steps in exact.items()
    ]


def test_the_curve_of_steps_over_batches_is_fitted():
    found = fit(points_at([8, 32, 128, 512], [0]))
    assert (found["min_steps"], found["min_examples"]) == pytest.approx((20, 2000), rel=1e-3)
    assert found["critical_batch_interval"] == pytest.approx((100, 100), rel=0.01)


def test_the_interval_of_the_measured_critical_batch_grows_with_the_spread_of_the_seeds():
    little, much = (
        fit(points_at([8, 32, 128, 512], seeds))["critical_batch_interval"] for seeds in ((-1, 1), (-10, 10))
    )
    assert much[0] < little[0] < 100 < little[1] < much[1]


def test_the_interval_holds_the_critical_batch_as_often_as_it_says():
    generator, inside = np.random.default_rng(0), 0
    for _ in range(200):
        points = points_at([16, 64, 256, 1024], generator.normal(scale=5, size=2))
        for point in points:
            point["each"] = [steps * np.exp(generator.normal(scale=0.1)) for steps in (point["each"])]
        low, high = fit(points)["critical_batch_interval"]
        inside += low < 100 < (high or np.inf)
    assert 180 <= inside <= 198


@pytest.mark.parametrize(
    ("steps", "low", "high", "said"),
    [
        ([1600, 790, 410, 198], 910, None, "measured critical batch above 910 (95%), as no bend shows"),
        ([1600, 800, 400, 200], 42890, None, "measure larger --batch-sizes, or more --seeds"),
        ([100, 101, 99, 100], 0, 1.2, "measured critical batch below 1 (95%), as no bend shows"),
        ([100, 100, 100, 100], 0, 0.05, "measure smaller --batch-sizes, or more --seeds"),
        ([100, 300, 20, 100], 0, None, "the steps do not bound the critical batch: measure more --seeds"),
    ],
)
def test_where_no_bend_shows_the_critical_batch_is_bounded_and_no_number(steps, low, high, said):
    points = [
        {"batch_size": size, "each": [each]} for size, each in zip((16, 32, 64, 128), steps, strict=True)
    ]
    found = fit(points)
    lower, upper = found["critical_batch_interval"]
    assert found["critical_batch"] is None
    assert lower == pytest.approx(low, rel=0.01)
    assert upper is None if high is None else 0 < upper <= high
    assert said in _measured(found)
    points = [each | {"steps": each["each"][0]} for each in points]
    curve = {"goal": "a goal", "points": points, "measured": found, "predicted": None}
    axes = Figure().subplots()
    sweep_chart(curve).draw(axes)
    (label,) = [text for text in axes.get_legend_handles_labels()[1] if text.startswith("fitted")]
    assert ("above" in label, "below" in label) == (bool(low), bool(high))


def test_steps_to_a_loss_are_in_the_middle_of_the_first_stretch_that_reaches_it(tmp_path):
    rows = [
        {"kind": "train", "step": step, "examples": step, "loss": loss}
        for step, loss in ((4, 1.0), (8, 0.09), (12, 0.2))
    ]
    (tmp_path / "recipe.yaml").write_text("")
    write_rows(tmp_path, rows)
    assert steps_to(Run(tmp_path), 0.1) == 6 and steps_to(Run(tmp_path), 0.01) is None


def test_a_loss_that_too_few_batch_sizes_reach_is_said_to_be_too_low(words, trained, capsys):
    assert main([*words, "--loss", "0.01"]) == RecipeError.exit_code
    said = capsys.readouterr().err
    assert "a training loss of 0.01 was reached at 0 batch sizes, and a curve needs 3" in said
    assert "choose an easier goal, or raise --epochs" in said


def test_batches_that_the_plan_rejects_are_reported_before_anything_is_trained(words, trained, capsys):
    assert main([*words, "--batch-sizes", "4,8,16,40,200"]) == RecipeError.exit_code
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "digits at batch size 4: batch_size=4 cannot be" in said
    assert "digits at batch size 8: measure.noise_scale=2it" in said
    assert (
        "What can be trained: digits at batch size 200, digits at batch size 40, digits at batch size 16."
        in said
    )
    assert not trained and not Path("runs").exists()


def test_a_batch_that_would_grow_does_not_in_a_sweep(words):
    Path("digits.py").write_text(
        RECIPE.format(data="digits") + "recipe = recipe.vary(schedule=dict(batch_growth=['10ep:3']))"
    )
    (arm,) = arms_of(Path("digits.py"), [], Target((64,), (1,), (Goal("loss", 0.1),), 6, 80))
    assert arm.recipe.schedule.batch_growth and arm.recipe_at(64).schedule.batch_growth == []
    (arm,) = arms_of(shipped()["digits/digits_absa"], [], Target((64,), (1,), (Goal("loss", 0.1),), 6, 80))
    assert arm.recipe.absa.max_batch_size and not arm.recipe_at(64).absa.max_batch_size


@pytest.mark.parametrize(
    "name",
    [
        "digits/digits",
        "digits/digits_720",
        "cifar10/resnet8_4k",
        "cifar10/wide_resnet_growth_3200",
        "fashion_mnist/fashion_mnist_2k_unscaled",
    ],
)
def test_factor_1_at_a_recipes_own_batch_is_its_own_peak_rate(name):
    """By any rule, and with a base_momentum of its own; other batches follow by the square root."""
    path = shipped()[name]
    recipe = load_recipe(path)
    own, size = peak_lr(recipe), recipe.batch_size
    (arm,) = arms_of(path, [], Target((size, 4 * size), (1,), (Goal("loss", 0.1),), 6, 80))
    assert peak_lr(arm.recipe_at(size)) == own
    assert peak_lr(arm.recipe_at(4 * size)) == pytest.approx(2 * own)


def test_words_of_the_form_key_value_change_every_run(words, trained):
    assert main([*words, "optimizer.momentum=0.8"]) == 0
    assert "momentum: 0.8" in (trained[0] / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--batch-sizes", "8,,2"], "--batch-sizes 8,,2: write batch sizes such as"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--batch-sizes", "16,40"], "--batch-sizes 16,40: a curve needs 3 batch sizes that reach the goal"),
        (["--rates", "1,2,1.0000001"], "--rates 1.0,2.0,1.0000001: 1 is there twice"),
        (["mnist.py"], "mnist.py: this command takes one recipe"),
    ],
)
def test_wrong_words_are_one_message(change, message, words, trained, capsys):
    assert main([*words[:2], *change, *words[2:]] if change[0] == "mnist.py" else [*words, *change]) == 2
    assert message in capsys.readouterr().err and not trained


@pytest.mark.parametrize("option", ["--epochs", "--loss", "--rates"])
@pytest.mark.parametrize("amount", ["inf", "nan", "0", "-1", "1e999", "x"])
def test_an_amount_is_a_finite_number_above_0(option, amount, words, trained, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*words, f"{option}={amount}"])
    assert exit_.value.code == 2 and not trained
    assert f"argument {option}: '{amount}' is not a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("errors", ["35,x", "35%", "-5", "nan"])
def test_errors_that_are_no_percentages_are_one_message(errors, error_words, trained, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([error_words[0], error_words[1], f"--errors={errors}", *error_words[4:]])
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and not trained
    assert f"argument --errors: '{errors.removeprefix('35,')}' is not a number above 0" in said


def test_a_sweep_that_a_launcher_starts_is_rejected(words, trained, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words) == 3 and "without a launcher" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "")
    assert main(words) == 3 and "WORLD_SIZE= is not a number" in capsys.readouterr().err
