"""The report of a study says what the run directories hold, and no more."""

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lbtrain.data import dataset_index
from lbtrain.errors import RecipeError
from lbtrain.recipe.files import contract_field, load_recipe
from lbtrain.recipe.findings import Difference
from lbtrain.tasks import PrimaryMetric
from tests.photos import write_folder
from tests.run_rows import write_rows
from tests.unit.study.summary import ORIGIN
from tools.kit.charts import save
from tools.kit.publish import ROOT, with_block
from tools.study import __main__ as study
from tools.study import publish
from tools.study.arm import Arm
from tools.study.jobs import WORKER, Job, check_unchanged
from tools.study.publish import block, measured, with_measured
from tools.study.report import (
    _mean_curve,
    charts_of,
    graded,
    outcomes,
    provenance,
    table_of,
    write_report,
)

RECIPES = ROOT / "recipes"
REFERENCE, LARGE = [1.0, 2.0, 3.0], [51.0, 52.0, 53.0]


ERROR = {"name": "top1_error", "label": "top-1 error", "higher_is_better": False}
PRECISION = {"name": "mask_ap", "label": "mask AP", "higher_is_better": True}


def arm(tmp_path: Path, name: str, errors: list[float | None], primary_metric=ERROR, epochs: int = 20) -> Arm:
    """An error of None is a run that diverged after an epoch."""
    recipe = tmp_path / f"{name}.py"
    recipe.write_text(f'"""{name.title()}\n<in> words.\n\nRun  python {name}.py\n"""\nrecipe = None\n')
    for seed, error in enumerate(errors):
        folder = tmp_path / name / f"seed{seed}"
        folder.mkdir(parents=True)
        name_of_it, content = (
            ("diverged.json", {})
            if error is None
            else ("summary.json", {primary_metric["name"]: error, **ORIGIN, "step": 900})
        )
        (folder / name_of_it).write_text(json.dumps(content))
        plan = {
            "batch_size": 32,
            "learning_rate": {"peak": 0.1},
            "total_steps": 900,
            "total_examples": 1440 * epochs,
            "train_examples": 1440,
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        rows = [
            {"kind": "train", "epoch": 1.0, "loss": 0.5},
            {"kind": "curvature"},
            {"kind": "eval", "epoch": 1.0, primary_metric["name"]: error or 0.0},
        ]
        write_rows(folder, rows)
    return Arm.read(recipe, tmp_path, list(range(len(errors))), PrimaryMetric(**primary_metric))


def test_the_page_shows_the_slowest_rank_of_runs_on_several(tmp_path):
    def page(arms):
        write_report(arms, tmp_path, title="t", command="c", launch="")
        return (tmp_path / "study.html").read_text()

    alone = page([arm(tmp_path, "alone", [1.0])])
    assert "slowest rank" not in alone
    arm(tmp_path, "pair", [1.0])
    slow = {"slowest_rank": 1, "slowest_host": "node01", "rank_wait": 0.25, "images_per_sec": 10.0}
    rows = [{"kind": "train", "epoch": 1.0, "examples": 1440, **slow}, {"kind": "eval", "top1_error": 1.0}]
    write_rows(tmp_path / "pair/seed0", rows)
    read = Arm.read(tmp_path / "pair.py", tmp_path, [0], PrimaryMetric(**ERROR))
    pair = page([read])
    assert "pair seed0" in pair and "rank 1 on node01" in pair and "25.00%" in pair
    assert pair.count("<svg") == alone.count("<svg") + 2


def test_damaged_files_of_a_run_are_named(tmp_path, capsys):
    arm(tmp_path, "digits", [1.0])
    run = tmp_path / "digits/seed0"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "epo\n')
    read = functools.partial(Arm.read, tmp_path / "digits.py", tmp_path, [0], PrimaryMetric(**ERROR))
    assert len(read().loss_curves[0][0]) == 1 and "line 4" in capsys.readouterr().err
    (run / "summary.json").write_text("[]")
    with pytest.raises(RecipeError, match=r"summary.json cannot be read"):
        read()


def test_arms_of_one_name_are_rejected(tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text("from lbtrain import Recipe\nrecipe = Recipe()\n")
    files = [str(tmp_path / folder / "same.py") for folder in ("a", "b")]
    assert study.main([*files, "--out", str(tmp_path / "out")]) == 2
    assert (
        f"the arms of {files[0]} and {files[1]} would both keep their runs in the folder same"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_mean_and_standard_deviation_of_the_seeds(tmp_path):
    reference = arm(tmp_path, "reference", REFERENCE)
    assert (reference.mean, reference.std) == (2.0, 1.0)
    assert "2.00 ± 1.00" in table_of([reference]).markdown()


def test_the_verdict_names_the_gap_with_its_interval(tmp_path):
    arms = [
        arm(tmp_path, "reference", REFERENCE),
        arm(tmp_path, "large", LARGE),
        arm(tmp_path, "same", [1.5, 2.0, 3.0]),
    ]
    large, same = outcomes(arms)
    # Both standard deviations are 1: the standard error of the difference is sqrt(1/3 + 1/3), and Student's t
    # with 4 degrees of freedom stays within 2.776 of 0 for 95 %.
    assert large == "large loses 50.00 ± 2.27 points against reference"
    assert same.endswith("no difference that these seeds can show")


def test_more_is_better_where_the_primary_metric_says_so(tmp_path):
    arms = [arm(tmp_path, "reference", LARGE, PRECISION), arm(tmp_path, "worse", REFERENCE, PRECISION)]
    assert outcomes(arms) == ["worse loses 50.00 ± 2.27 points against reference"]
    assert "mask AP %, mean ± std" in table_of(arms).markdown()
    write_report(arms, tmp_path, title="A title", command="x", launch="1 rank")
    assert json.loads((tmp_path / "study.json").read_text())["arms"][0]["mask_ap"] == LARGE


def test_the_page_is_self_contained_and_escapes_text(tmp_path):
    arms = [arm(tmp_path, "reference", REFERENCE), arm(tmp_path, "large", LARGE)]
    write_report(arms, tmp_path, title="A <b> title", command="x", launch="1 rank")
    page = (tmp_path / "study.html").read_text()
    assert "Reference &lt;in&gt; words." in page and "A &lt;b&gt; title" in page
    assert "src=" not in page.replace('src="data:image/png;base64,', "") and "<script" not in page
    assert (tmp_path / "study.png").stat().st_size > 10_000


def test_the_origin_is_that_of_the_runs(tmp_path):
    reference, other = arm(tmp_path, "reference", REFERENCE), arm(tmp_path, "other", LARGE)
    assert provenance([reference, other], "command").endswith("; commit abc on 2 cores; torch 2.0")
    path = tmp_path / "other/seed0/summary.json"
    path.write_text(path.read_text().replace("abc", "def"))
    later = Arm.read(tmp_path / "other.py", tmp_path, [0, 1, 2], PrimaryMetric(**ERROR))
    assert {"abc", "def"} <= set(provenance([reference, later], "command").replace(";", " ").split())


def test_a_single_run_has_no_spread(tmp_path):
    arms = [arm(tmp_path, "reference", [2.0]), arm(tmp_path, "large", LARGE)]
    assert "| 2.00  " in table_of(arms).markdown() and "52.00 ± 1.00" in table_of(arms).markdown()
    assert outcomes(arms) == [
        "large loses 50.00 points against reference; a single run says nothing of the spread"
    ]


def test_the_score_can_be_the_median_of_the_last_evaluations(tmp_path):
    arm(tmp_path, "digits", [9.0])
    evaluations = [
        {"kind": "eval", "epoch": float(epoch), "top1_error": error}
        for epoch, error in enumerate([50.0, 3.0, 1.0, 8.0, 2.0, 9.0])
    ]
    write_rows(tmp_path / "digits/seed0", evaluations)
    read = functools.partial(Arm.read, tmp_path / "digits.py", tmp_path, [0], PrimaryMetric(**ERROR))
    assert [read(number).scores for number in (1, 3, 5)] == [[9.0], [8.0], [3.0]]
    assert "median of the last 5 evaluations" in table_of([read(5)]).markdown()
    with pytest.raises(RecipeError, match="has 6 evaluations: use --evaluations 6 or less"):
        read(7)


def test_an_arm_is_graded_by_the_finding_of_its_source(tmp_path):
    """The gap of 50 ± 2.27 points, and one that these seeds cannot tell from its bound."""
    reference = arm(tmp_path, "reference", REFERENCE)
    large, other, alone = (
        dataclasses.replace(arm(tmp_path, name, errors), finding=Difference(of, bound, "A paper, Figure 1"))
        for name, errors, of, bound in (
            ("large", LARGE, "digits/reference", ">0.0"),
            ("other", [1.5, 2.0, 3.0], "digits/reference", "<=0.5"),
            ("alone", [1.0, 2.0], "digits/another", "<=0.5"),
        )
    )
    write_report([reference, large, other, alone], tmp_path, title="A title", command="x", launch="1 rank")
    data = json.loads((tmp_path / "study.json").read_text())
    assert [(row["recipe"], row["outcome"]) for row in data["findings"]] == [
        ("large", "reproduced"), ("other", "open"),
    ]  # fmt: skip
    said = "large: +50.00 ± 2.27 points, reproduced (>0.0 points against digits/reference: A paper, Figure 1)"
    assert said in data["outcomes"]
    single = dataclasses.replace(arm(tmp_path, "single", [60.0]), finding=large.finding)
    assert [row["outcome"] for row in graded([reference, single])] == ["open"], "one run has no interval"


@pytest.mark.parametrize(
    ("errors", "reference", "outcome"),
    [
        ([1.0, None], REFERENCE, "not reproduced"),
        ([None, None], REFERENCE, "not reproduced"),
        ([50.0, 51.0], [2.0, None], "reproduced"),
        ([1.0, None], [2.0, None], "open"),
    ],
)
def test_an_arm_of_which_a_run_diverged_is_worse_than_one_without(tmp_path, errors, reference, outcome):
    finding = Difference("digits/reference", "<=0.5", "A paper")
    own = dataclasses.replace(arm(tmp_path, "own", errors), finding=finding)
    (row,) = graded([arm(tmp_path, "reference", reference), own])
    assert (row["outcome"], row["gap"], row["error"]) == (outcome, None, None)
    assert "diverged" in row["text"] and json.dumps(row, allow_nan=False)


def test_the_steps_are_those_that_were_made(tmp_path):
    """A run that stops at a quality, or whose batch grows by its curvature, makes fewer than its plan has."""
    arm(tmp_path, "early", [1.0, 2.0])
    for seed, step in enumerate((300, 340)):
        path = tmp_path / f"early/seed{seed}/summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"step": step}))
    read = functools.partial(Arm.read, tmp_path / "early.py", tmp_path, [0, 1], PrimaryMetric(**ERROR))
    assert read().steps == 320 and "320" in table_of([read()]).markdown()
    assert arm(tmp_path, "lost", [None]).steps == 900


def test_the_training_error_is_averaged_by_epoch(tmp_path):
    """Weighted by the examples of each row, also where the last step ends a little after the last epoch; a
    run whose images are mixed has none.
    """
    arm(tmp_path, "digits", [1.0])
    logged = [(0.5, 50, 80.0), (1.0, 100, 60.0), (1.2, 120, 50.0), (2.01, 200, 12.5)]
    rows = [
        {"kind": "train", "epoch": epoch, "examples": examples, "train_error": error}
        for epoch, examples, error in logged
    ]
    write_rows(tmp_path / "digits/seed0", [*rows, {"kind": "eval", "epoch": 2.0, "top1_error": 1.0}])
    read = Arm.read(tmp_path / "digits.py", tmp_path, [0], PrimaryMetric(**ERROR))
    ((epochs, errors),) = read.error_curves
    assert (list(epochs), list(errors)) == ([1, 2], [70.0, 20.0])
    mixed = arm(tmp_path, "mixed", [1.0])
    assert [chart.title for chart in charts_of([mixed])] == ["Training loss", "Validation: top-1 error"]
    titles = [chart.title for chart in charts_of([mixed, read])]
    assert titles == ["Training loss", "Training error", "Validation: top-1 error"]
    save(charts_of([mixed, read]), tmp_path / "x.png")


def test_a_run_that_diverged_is_counted_and_has_no_score(tmp_path):
    lost, some = arm(tmp_path, "lost", [None, None]), arm(tmp_path, "some", [51.0, None, 53.0])
    arms = [arm(tmp_path, "reference", [1.0, 2.0, 3.0]), lost, some]
    assert (lost.mean, some.mean, some.diverged, len(some.loss_curves)) == (None, 52.0, [1.0], 2)
    assert outcomes(arms)[:2] == ["lost: 2 of 2 runs diverged", "some: 1 of 3 runs diverged"]
    assert outcomes(arms)[2].startswith("some loses 50.00 ± ") and len(outcomes(arms)) == 3
    assert outcomes([lost, some]) == ["lost: 2 of 2 runs diverged", "some: 1 of 3 runs diverged"], (
        "nothing to hold the second against"
    )
    write_report(arms, tmp_path, title="A title", command="x", launch="1 rank")
    assert (
        "diverged</td>" in (tmp_path / "study.html").read_text()
        and "52.00 ± 1.41 (1 of 3 diverged)" in table_of(arms).markdown()
    )
    rows = json.loads((tmp_path / "study.json").read_text())["arms"]
    assert [(row["n"], row["diverged"], row["mean"]) for row in rows] == [
        (3, 0, 2.0),
        (0, 2, None),
        (2, 1, 52.0),
    ]


def test_runs_that_were_logged_at_other_epochs_have_a_mean_curve(tmp_path):
    """A batch that adapts makes longer steps with one seed than with another."""
    adapted = arm(tmp_path, "adapted", REFERENCE)
    adapted.loss_curves[:] = [
        (np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])),
        (np.array([1.0, 3.0]), np.array([5.0, 1.0])),
    ]
    assert [list(values) for values in _mean_curve(adapted.loss_curves)] == [[1, 2, 3], [4, 2.5, 1]]
    long = arm(tmp_path, "long", LARGE, epochs=460)
    save(charts_of([adapted, long]), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_a_finished_run_whose_recipe_has_changed_is_rejected(tmp_path):
    job = Job(str(RECIPES / "digits/digits.py"), ("seed=3",), str(tmp_path))
    recipe = load_recipe(RECIPES / "digits/digits.py").with_overrides(job.words)
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text(
        recipe.vary(log_every="1it").to_yaml()
    )  # what does not enter the mathematics may differ
    check_unchanged([job])
    (tmp_path / "recipe.yaml").write_text(recipe.vary(schedule=dict(base_lr=0.06)).to_yaml())
    with pytest.raises(RecipeError, match=r"another recipe \(schedule.base_lr was 0.06, is 0.05\)"):
        check_unchanged([job])
    for changes in (dict(stop_at=["top1_accuracy>=80"]), dict(evaluate_every="4ep")):  # scored elsewhere
        (tmp_path / "recipe.yaml").write_text(recipe.vary(**changes).to_yaml())
        with pytest.raises(RecipeError, match=rf"another recipe \({next(iter(changes))} was"):
            check_unchanged([job])


def test_a_run_on_other_images_is_rejected_and_one_on_images_that_were_moved_is_not(tmp_path):
    cats, dogs, moved = (tmp_path / name for name in ("cats", "dogs", "moved"))
    write_folder(cats)
    shutil.copytree(cats, moved)
    shutil.copytree(cats, dogs)
    (dogs / "train/ant/0.JPEG").rename(dogs / "train/ant/dog.JPEG")
    photos = ("data.name=imagefolder", "data.image_size=32", "model.name=resnet18")

    def job(root, *more):
        words = (*photos, f"data.root={root}", *more)
        return Job(str(RECIPES / "digits/digits.py"), words, str(tmp_path / "run"))

    recipe, index = job(cats).load(), dataset_index(job(cats).load().data).parts()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text(recipe.to_yaml())
    known = {f"data: {name}": text for name, text in index.items()}
    (tmp_path / "run/fingerprint.json").write_text(json.dumps(known))
    check_unchanged([job(cats), job(moved), job(moved, f"data.validation_root={cats / 'val'}")])
    with pytest.raises(RecipeError, match=r"data\.validation_root was .*, is .*train, with other images"):
        check_unchanged([job(cats, f"data.validation_root={cats / 'train'}")])
    with pytest.raises(RecipeError, match=r"data\.root was .*cats, is .*dogs, with other images"):
        check_unchanged([job(dogs)])


def test_runs_that_have_no_score_are_not_trained_for_one(capsys):
    words = ["data.name=imagefolder", "data.root=photos", "data.validation_root=none"]
    for command in ([], ["sweep", "--batch-sizes", "8"]):
        assert study.main([*command, str(RECIPES / "digits/digits.py"), *words]) == 2
        assert "data.validation_root=none: runs that are not evaluated have no" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", '{"kind": "eval", "epoch": 1.0, "top1_error": 1.0}\n'])
def test_a_report_needs_no_curves_of_runs_that_have_a_score(tmp_path, text):
    arms = [arm(tmp_path, "whole", [1.0, 2.0]), arm(tmp_path, "lost", [1.0])]
    (tmp_path / "lost/seed0/metrics.jsonl").write_text(text)
    arms[1] = Arm.read(tmp_path / "lost.py", tmp_path, [0], PrimaryMetric(**ERROR))
    assert arms[1].scores == [1.0] and not arms[1].loss_curves
    save(charts_of(arms), tmp_path / "x.png")


def test_recipes_that_are_scored_by_different_metrics_are_rejected(capsys):
    assert study.main([str(RECIPES / "digits/digits.py"), str(RECIPES / "coco/mask_rcnn_shapes.py")]) == 2
    assert "mask_rcnn_shapes.py: mask AP" in capsys.readouterr().err


CONTRACT = '"""A title.\n\nRun        python x.py\nPublished  nothing\nMeasured   {}\n"""\n'


@pytest.mark.parametrize(
    ("old", "line", "stays"),
    [
        ("not yet", "2 % (n=5; results/b.json)", False),
        ("1 % (n=5; results/b.json)", "2 % (n=5; results/b.json)", False),
        ("1 % (n=5; results/a.json)", "2 % (n=5; results/b.json)", True),
        ("1 % (n=5, as an arm of the sweep; results/a.json)", "2 % (n=5; results/b.json)", False),
        (
            "1 % (n=5, as an arm of the sweep; results/a.json)",
            "2 % (n=5, as an arm of the sweep; results/b.json)",
            True,
        ),
    ],
)
def test_a_contract_takes_a_number_where_no_other_result_speaks(old, line, stays):
    assert with_measured(CONTRACT.format(old), line) == CONTRACT.format(old if stays else line)


def test_what_a_study_and_a_sweep_say_of_recipes(tmp_path):
    row = {"label": "top-1 error", "n": 5, "diverged": 0, "mean": 1.234, "std": 0.5, "batch_size": 720}
    row |= {"evaluations": 1}
    arms = [
        {"recipe": "a", **row},
        {"recipe": "b", **row, "n": 3, "diverged": 2},
        {"recipe": "c", **row, "n": 0, "diverged": 5, "mean": None},
    ]
    said = measured({"arms": arms, "launch": "2 ranks under deepspeed", "overrides": []}, "x")
    assert said == {
        "a": "top-1 error 1.23 ± 0.50 % (n=5, 2 ranks under deepspeed; results/x.json)",
        "b": "top-1 error 1.23 ± 0.50 % (n=3, 2 of 5 runs diverged, 2 ranks under deepspeed; results/x.json)",
        "c": "diverged (n=5, 2 ranks under deepspeed; results/x.json)",
    }
    assert measured({"arms": arms, "launch": "1 rank", "overrides": ["duration=1ep"]}, "x") == {}
    tuned = {"arms": [{"recipe": "resnet8_from_digits", **row}], "launch": "1 rank"}
    assert measured(tuned | {"overrides": ["model.weights=runs/digits"]}, "x")  # as its contract says
    assert not measured(tuned | {"overrides": ["model.weights=runs/digits", "duration=1ep"]}, "x")
    long = {"rows": [{"recipe": "resnet8_4k_muon_64ep", **row}]}  # whose recipe says these itself
    assert measured(long | {"overrides": ["duration=64ep", "precision=fp32"]}, "x")
    assert not measured(long | {"overrides": ["duration=64ep", "precision=bf16"]}, "x")
    goyals = {"arms": [{"recipe": "a", **row, "evaluations": 5}], "launch": "1 rank", "overrides": []}
    assert measured(goyals, "x")["a"].endswith(
        "(n=5, median of the last 5 evaluations, 1 rank; results/x.json)"
    )
    points = {"unscaled": "", "digits_720_lamb": "digits_720_lamb", "digits": ""}  # at another batch size
    rows = [{"arm": arm, "recipe": recipe, **row} for arm, recipe in points.items()]
    assert measured({"rows": rows, "overrides": []}, "x") == {
        "digits_720_lamb": "top-1 error 1.23 ± 0.50 % (n=5, as an arm of the sweep; results/x.json)"
    }


def test_a_study_of_before_is_rejected_with_the_remedy(tmp_path, monkeypatch, capsys):
    (tmp_path / "study.json").write_text(
        json.dumps({"arms": [], "table": "", "outcomes": [], "provenance": ""})
    )
    monkeypatch.setattr(sys, "argv", ["publish", str(tmp_path), "--name", "x"])
    assert publish.main() == 2 and "run the command again that made it" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["publish", str(tmp_path / "none"), "--name", "x"])
    assert publish.main() == 2 and "none holds no result" in capsys.readouterr().err


def test_publishing_replaces_only_what_stands_between_the_markers():
    text = "before\n<!-- x -->\nold\n<!-- /x -->\nafter"
    assert with_block(text, "x", "new \\1") == "before\n<!-- x -->\nnew \\1\n<!-- /x -->\nafter"
    for page in ("no markers", "<!-- /x --> old <!-- x -->"):
        with pytest.raises(RecipeError, match="markers"):
            with_block(page, "x", "new")


def test_a_page_in_a_folder_finds_its_picture():
    study = {"table": "|", "outcomes": [], "provenance": "command"}
    assert "(x.png)" in block(study, "x") and "(docs/x.png)" in block(study, "x", ROOT / "README.md")


def test_recipes_state_what_was_measured():
    """Every number behind `Measured` is that of its recipe in the result it names, of a sweep at the recipe's
    own batch size.
    """
    said = {path.stem: contract_field(path.read_text(), "Measured") for path in RECIPES.rglob("*.py")}
    said = {name: line for name, line in said.items() if "results/" in line}
    assert len(said) >= 6
    for recipe, line in said.items():
        result = json.loads((ROOT / re.search(r"results/\w+\.json", line)[0]).read_text())
        rows = [
            row
            for row in result.get("rows", result.get("arms"))
            if row.get("recipe", row.get("arm")) == recipe
        ]
        (path,) = RECIPES.rglob(f"{recipe}.py")
        own = [row for row in rows if row["batch_size"] == load_recipe(path).batch_size]
        assert own, recipe
        for row in own:  # arms that are the same run there share it
            spread = f" ± {row['std']:.2f}" if row["n"] > 1 else ""
            number = f" {row['mean']:.2f}{spread} % (n={row['n']}," if row["n"] else "diverged (n="
            assert number in f" {line}", recipe


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("accuracy.md", "digits_demo"),
        ("accuracy.md", "digits_sweep"),
        ("accuracy.md", "fashion_sweep"),
        ("detection.md", "mask_rcnn_shapes"),
        ("methods.md", "digits_methods"),
        ("methods.md", "fashion_methods"),
    ],
)
def test_a_page_shows_the_published_study(page, name):
    study, path = json.loads((ROOT / f"results/{name}.json").read_text()), ROOT / "docs" / page
    text = path.read_text()
    assert with_block(text, name, block(study, name, path)) == text and study["provenance"] in text


def test_the_worker_starts_from_any_folder_by_its_path_alone(tmp_path):
    """As launchers start it, on hosts where only lbtrain is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "jobs.json").write_text("[]")
    started = subprocess.run(
        [sys.executable, WORKER[0], "--local_rank=0", *WORKER[1:], "jobs.json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert started.returncode == 0, started.stderr


def test_the_worker_starts_where_the_tools_are_a_part_of_an_installed_lbtrain(tmp_path):
    """There the package is called lbtrain.tools, and nothing else on the path is called tools."""
    installed = tmp_path / "site-packages"
    ignored = shutil.ignore_patterns("__pycache__", "*.png")
    shutil.copytree(ROOT / "lbtrain", installed / "lbtrain", ignore=ignored)
    for part in ("tools", "recipes"):
        shutil.copytree(ROOT / part, installed / "lbtrain" / part, ignore=ignored)
    (tmp_path / "jobs.json").write_text("[]")
    start = installed / "lbtrain/tools/kit/start.py"
    started = subprocess.run(
        [sys.executable, start, "study.worker", "jobs.json"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert started.returncode == 0, started.stderr
