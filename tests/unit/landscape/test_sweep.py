"""A sweep whose runs are made up, so that the curve that it must find is known; and whose runs it may use
again.
"""

import importlib
import json
from pathlib import Path

import pytest

from lbtrain.errors import RecipeError
from tests.run_rows import write_rows
from tools.landscape.__main__ import main
from tools.landscape.runs import Run
from tools.landscape.sweep import Target, arms_of, fit, steps_to
from tools.study import jobs

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
    found = json.loads(Path("runs/landscape-sweep/digits/sweep.json").read_text())
    assert [point["steps"] for point in found["points"]] == [145, 70, 30]
    assert (
        found["measured"]["critical_batch"]
        == pytest.approx(NOISE, rel=0.02)
        == found["predicted"]["critical_batch"]
    )
    assert found["command"] == "python -m tools.landscape " + " ".join(words)
    assert found["origins"] == [ORIGIN] and found["date"].count("-") == 2
    page = Path("runs/landscape-sweep/digits/sweep.html").read_text()
    assert found["command"] in page and "abc1234 on 2 cores; python 3.11, torch 2.5" in page


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
    found = json.loads((folder / "sweep.json").read_text())
    assert found["measured"]["critical_batch"] == pytest.approx(100, rel=0.02) and found["predicted"] is None
    assert (folder / "sweep.png").exists() and "says no critical batch" in (folder / "sweep.html").read_text()


def test_a_second_time_nothing_is_trained_and_another_recipe_has_its_own_folder(words, trained):
    assert main(words) == main(words) == 0
    assert len(trained) == 3
    assert main([*words[:1], "mnist.py", *words[2:]]) == 0
    assert len(set(trained)) == 6


CHANGED = {
    "another recipe": (["sweep", "mnist.py"], "data.name was digits, is mnist"),
    "longer runs": (["--epochs", "3"], "duration was"),
    "more steps": (["--least-steps", "500"], "duration was"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_runs_of_another_sweep_are_not_taken_for_its_own(case, words, trained, capsys):
    changes, message = CHANGED[case]
    assert main([*words, "--out", "out"]) == 0
    report = Path("out/sweep.json").read_text()
    other = [*changes, *words[2:]] if changes[0] == "sweep" else [*words, *changes]
    assert main([*other, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert message in said and "choose another --out" in said
    assert len(trained) == 3 and Path("out/sweep.json").read_text() == report


def test_the_curve_of_steps_over_batches_is_fitted():
    sizes = [8, 32, 128, 512]
    assert fit(sizes, [20 + 2000 / size for size in sizes]) == pytest.approx((20, 2000), rel=1e-3)


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
    assert "raise --loss or --epochs" in capsys.readouterr().err


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
    (arm,) = arms_of(Path("digits.py"), [], Target((64,), (1,), 0.1, 6, 80))
    assert arm.recipe.schedule.batch_growth and arm.recipe_at(64).schedule.batch_growth == []


def test_words_of_the_form_key_value_change_every_run(words, trained):
    assert main([*words, "optimizer.momentum=0.8"]) == 0
    assert "momentum: 0.8" in (trained[0] / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--rates", "1,x"], "--rates 1,x: write factors such as 1,2,4"),
        (["--batch-sizes", "8,,2"], "--batch-sizes 8,,2: write batch sizes such as"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["mnist.py"], "mnist.py: this command takes one recipe"),
    ],
)
def test_wrong_words_are_one_message(change, message, words, trained, capsys):
    assert main([*words[:2], *change, *words[2:]] if change[0] == "mnist.py" else [*words, *change]) == 2
    assert message in capsys.readouterr().err and not trained


def test_a_sweep_that_a_launcher_starts_is_rejected(words, trained, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words) == 3 and "without a launcher" in capsys.readouterr().err
