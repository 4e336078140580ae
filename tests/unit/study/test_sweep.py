"""A sweep: what differs between its arms, which runs they share, and what the report says of runs that
diverge.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from lbtrain.errors import RecipeError
from lbtrain.plan.scaling import peak_lr
from lbtrain.tasks import PrimaryMetric
from tests.run_rows import write_rows
from tests.unit.study.summary import ORIGIN
from tools.kit.charts import save
from tools.study import sweep
from tools.study.grid import Point, batch_sizes_of, in_order, points_of
from tools.study.jobs import Job, Launch
from tools.study.sweep import arms_of
from tools.study.sweep_report import chart_of, error_charts, outcomes, table_of, write_report

RECIPES = Path(__file__).parents[3] / "recipes"
SIZES = [4, 32, 720]
ERROR = PrimaryMetric("top1_error", "top-1 error", higher_is_better=False)
PRECISION = PrimaryMetric("mask_ap", "mask AP", higher_is_better=True)


def points(tmp_path: Path, seeds: int = 2) -> list[Point]:
    return points_of(
        arms_of(RECIPES / "digits/digits.py", [RECIPES / "digits/digits_720_lamb.py"]),
        SIZES,
        list(range(seeds)),
        tmp_path,
    )


def test_the_arms_differ_in_the_rate_and_its_warmup_alone():
    unscaled, linear, gradual, lamb = arms_of(
        RECIPES / "digits/digits.py", [RECIPES / "digits/digits_720_lamb.py"]
    )
    large = [arm.recipe_at(720) for arm in (unscaled, linear, gradual)]
    assert [(each.schedule.rule, str(each.schedule.warmup)) for each in large] == [
        ("none", "0ep"),
        ("linear", "0ep"),
        ("linear", "2ep"),
    ]
    assert len({each.vary(schedule=dict(rule="none", warmup="0ep")).to_yaml() for each in large}) == 1
    # Without warm-up up to the base batch.
    assert [str(gradual.recipe_at(size).schedule.warmup) for size in SIZES] == ["0ep", "0ep", "2ep"]
    assert (lamb.recipe_at(720).optimizer.name, lamb.recipe_at(720).batch_size) == ("lamb", 720)


@pytest.mark.parametrize(
    ("recipes", "sizes", "said"),
    [
        (["resnet8_4k_muon"], ["128"], "resnet8_4k_muon has a table of learning rates"),
        (
            ["resnet8_4k", "resnet8_4k_sgd"],
            ["128,2048"],
            "sgd has learning rates at batch size 1024, 4096, 8192",
        ),
        (["resnet8_4k"], ["128", "--tuned-batch-sizes", "4096"], "batch-sizes 4096: no recipe of this sweep"),
        (
            ["resnet8_4k", "resnet8_4k_sgd"],
            ["4096", "--tuned-batch-sizes", "8192,300"],
            "sizes 300: no recipe",
        ),
    ],
)
def test_what_no_table_of_rates_covers_is_rejected(tmp_path, capsys, recipes, sizes, said):
    """An arm would be left out without a word, or be trained at a rate that is nobody's."""
    words = [*(f"cifar10/{name}" for name in recipes), "--batch-sizes", *sizes, "--out", str(tmp_path)]
    assert sweep.main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["linear", "unscaled", "linear+warm-up", "digits_720_lamb"])
def test_arms_of_one_name_are_rejected(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("from lbtrain import Recipe\nrecipe = Recipe()\n")
    with pytest.raises(
        RecipeError, match=rf"and .*{re.escape(name)}\.py would both keep their runs in the folder"
    ):
        arms_of(
            RECIPES / "digits/digits.py", [RECIPES / "digits/digits_720_lamb.py", tmp_path / f"{name}.py"]
        )


def test_batch_norm_sees_no_more_than_the_batch_and_remembers_as_many_examples():
    arm = arms_of(RECIPES / "digits/digits.py", [])[0]
    at = {size: arm.recipe_at(size) for size in SIZES}
    assert [at[size].bn_batch_size for size in SIZES] == [4, 8, 8]
    # After the same 720 examples, the same share of the old statistics is left: (1 - momentum) ** steps.
    left = {size: (1 - at[size].bn_momentum) ** (720 / size) for size in SIZES}
    assert left[4] == pytest.approx(left[720], rel=1e-4) and left[32] == pytest.approx(
        0.9 ** (720 / 32), rel=1e-4
    )


def test_arms_that_are_the_same_run_share_it(tmp_path):
    jobs = {(point.arm, point.batch_size): point.jobs for point in points(tmp_path)}
    assert jobs["linear", 4] == jobs["linear + warm-up", 4] != jobs["unscaled", 4]
    assert jobs["unscaled", 32] == jobs["linear", 32] == jobs["linear + warm-up", 32]
    assert len({each[0].run_dir for (_, size), each in jobs.items() if size == 720}) == 4


def test_every_job_runs_once_the_large_batches_first(tmp_path):
    order = in_order(points(tmp_path))
    assert len(order) == len({job.run_dir for job in order}) == 2 * (4 + 2 + 3)
    sizes = [
        int(word.partition("=")[2]) for job in order for word in job.words if word.startswith("batch_size=")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert [job.words[-1] for job in order[:2]] == ["seed=0", "seed=1"]


def test_an_arm_with_a_table_of_rates_is_trained_at_its_batch_sizes_only(tmp_path):
    arms = arms_of(RECIPES / "cifar10/resnet8_4k.py", [RECIPES / "cifar10/resnet8_4k_sgd.py"])
    made = points_of(arms, [128, 2048, 4096], [0], tmp_path)
    assert [point.batch_size for point in made if point.arm == "resnet8_4k_sgd"] == [4096]
    named = [
        Point(each.arm, each.batch_size, (finished(tmp_path / f"{number}", 1.0),), ERROR)
        for number, each in enumerate(made)
    ]
    assert [line.split("|")[5].strip() for line in table_of(named).markdown().splitlines()[2:]] == [
        "-",
        "-",
        "1.00",
    ]


def test_tuned_batch_sizes_are_for_the_arms_with_a_table_alone(monkeypatch):
    made = []
    monkeypatch.setattr(sweep, "write_report", lambda *_, **__: "")
    monkeypatch.setattr(
        sweep, "trained", lambda arms, sizes, *_: [made.append((arm.name, sizes)) for arm in arms] and []
    )
    recipes = [str(RECIPES / f"cifar10/{name}.py") for name in ("resnet8_4k", "resnet8_4k_muon")]
    assert sweep.main([*recipes, "--batch-sizes", "128", "--tuned-batch-sizes", "8192,4096"]) == 0
    assert [name for name, sizes in made if sizes == [128]][-1] == "resnet8_4k_muon"
    assert [name for name, sizes in made if sizes == [4096, 8192]] == ["resnet8_4k_muon"]
    assert sweep.main([*recipes, "--batch-sizes", "128,4096", "--tuned-batch-sizes", "8192,4096"]) == 0
    tuned = [sizes for name, sizes in made if name == "resnet8_4k_muon"]
    assert tuned[-1] == [8192], "4,096 is there already"
    assert sweep.main([*recipes, "--batch-sizes", "4096", "--warmup-batch-sizes", "1024,4096"]) == 0
    assert made[-1] == ("linear + warm-up", [1024])


def test_further_batch_sizes_may_stand_alone(tmp_path, monkeypatch, capsys):
    trained: list[Job] = []
    monkeypatch.setattr(Launch, "train", lambda _, jobs: trained.extend(jobs))
    monkeypatch.setattr(sweep, "write_report", lambda *_, **__: "")
    words = ["cifar10/resnet8_4k", "cifar10/resnet8_4k_muon", "--seeds", "1", "--out", str(tmp_path)]
    assert sweep.main([*words, "--tuned-batch-sizes", "4096", "--warmup-batch-sizes", "1024"]) == 0
    folders = [Path(job.run_dir).relative_to(tmp_path) for job in trained]
    assert list(map(str, folders)) == ["resnet8_4k_muon/batch4096/seed0", "linear+warm-up/batch1024/seed0"]
    assert sweep.main(words) == 2
    assert "add --batch-sizes" in capsys.readouterr().err


def test_a_point_knows_the_shipped_recipe_that_it_is(tmp_path):
    arms = arms_of(RECIPES / "cifar10/resnet8_4k.py", [RECIPES / "cifar10/resnet8_4k_lamb.py"])
    made = points_of(arms, [128, 1024, 4096], [0], tmp_path)
    assert {(point.arm, point.batch_size): point.recipe for point in made if point.recipe} == {
        ("unscaled", 128): "resnet8",
        ("linear", 128): "resnet8",
        ("linear + warm-up", 128): "resnet8",
        ("unscaled", 4096): "resnet8_4k_unscaled",
        ("linear + warm-up", 4096): "resnet8_4k",
        ("resnet8_4k_lamb", 4096): "resnet8_4k_lamb",
    }


def finished(
    folder: Path, score: float | None, primary_metric: PrimaryMetric = ERROR, peak: float = 0.1
) -> Job:
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({"total_steps": 10, "learning_rate": {"peak": peak}}))
    name, content = (
        ("diverged.json", {}) if score is None else ("summary.json", {primary_metric.name: score, **ORIGIN})
    )
    (folder / name).write_text(json.dumps(content))
    return Job(str(RECIPES / "digits/digits.py"), (), str(folder))


def drawn(tmp_path: Path) -> list[Point]:
    errors: dict[tuple[str, int], list[float | None]] = {
        ("a", 32): [1.0, 2.0, 3.0],
        ("b", 32): [1.0, 2.0, 3.0],
        ("a", 720): [51.0, 52.0, 53.0],
        ("b", 720): [2.0, None, None],
    }
    return [
        Point(
            arm,
            size,
            tuple(finished(tmp_path / f"{arm}{size}/seed{seed}", error) for seed, error in enumerate(runs)),
            ERROR,
        )
        for (arm, size), runs in errors.items()
    ]


def test_the_report_counts_what_diverged(tmp_path):
    made = drawn(tmp_path)
    assert all(job.ended for point in made for job in point.jobs)
    assert table_of(made).markdown().splitlines()[2:] == [
        "|    32 | 2.00 ± 1.00  | 2.00 ± 1.00            |",
        "|   720 | 52.00 ± 1.00 | 2.00 (2 of 3 diverged) |",
    ]
    assert outcomes(made, 32)[0] == "a: +50.00 ± 2.27 points from batch 32 to 720"
    assert (
        outcomes(made, 32)[1]
        == "b: +0.00 points from batch 32 to 720 (2 of 3 diverged); a single run says nothing of the spread"
    )
    larger = Point("c", 8192, (finished(tmp_path / "c", 5.0),), ERROR)
    assert outcomes([*made, larger], 32) == [
        *outcomes(made, 32),  # each arm's own largest batch
        "c: +3.00 points from batch 32 of a to 8,192; a single run says nothing of the spread",
    ]
    lost = Point("a", 8192, (finished(tmp_path / "lost", None),), ERROR)
    assert outcomes([*made, lost], 32)[-1] == "a: all runs diverged at 8,192"
    assert outcomes(made, 16) == ["no run at batch 16, the base of the learning rate: nothing is compared"]
    write_report(made, tmp_path, title="A title", command="a command", reference=32)
    data = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["diverged"] for row in data["rows"]] == [0, 0, 0, 2] and "commit abc" in data["provenance"]


def test_the_training_error_of_each_larger_batch_is_drawn_beside_the_base(tmp_path):
    made = drawn(tmp_path)
    assert error_charts(made, 32) == []
    (tmp_path / "without").mkdir()
    write_report(made, tmp_path / "without", title="A title", command="a command", reference=32)
    assert not (tmp_path / "without/sweep_errors.png").exists()
    for point in made:
        for folder in point.ended:
            write_rows(folder, [{"kind": "train", "epoch": 1.0, "examples": 10, "train_error": 5.0}])
    made = [dataclasses.replace(point) for point in made]  # what was read before is kept by the old ones
    assert [chart.title for chart in error_charts(made, 32)] == ["Training error, batch 720"]
    assert error_charts(made, 64) == []
    write_report(made, tmp_path, title="A title", command="a command", reference=32)
    assert (tmp_path / "sweep_errors.png").stat().st_size > 5_000
    assert "Training error, batch 720" in (tmp_path / "sweep.html").read_text()


def test_a_sweep_of_detectors_is_scored_by_their_precision(tmp_path):
    arms = arms_of(RECIPES / "coco/mask_rcnn_shapes.py", [])
    assert all(point.primary_metric == PRECISION for point in points_of(arms, [2, 16], [0], tmp_path))
    assert [
        (at.bn_batch_size, at.loss_batch_size) for at in (arms[0].recipe_at(size) for size in (2, 32))
    ] == [(2, 2), (4, 4)]
    runs = tuple(
        finished(tmp_path / f"seed{seed}", score, PRECISION) for seed, score in enumerate([20.0, 30.0])
    )
    write_report(
        [Point("a", 16, runs, PRECISION)], tmp_path, title="A title", command="a command", reference=16
    )
    row = json.loads((tmp_path / "sweep.json").read_text())["rows"][0]
    assert (row["mask_ap"], row["mean"], "top1_error" in row) == ([20.0, 30.0], 25.0, False)


def test_arms_that_are_scored_by_different_metrics_are_rejected():
    with pytest.raises(
        RecipeError, match=r"mask_rcnn_shapes\.py: is scored by mask AP, .*digits\.py by top-1 error"
    ):
        arms_of(RECIPES / "digits/digits.py", [RECIPES / "coco/mask_rcnn_shapes.py"])


def test_an_arm_that_always_diverges_has_a_cross_and_no_mean(tmp_path):
    lost = Point("a", 720, (finished(tmp_path / "x", None),), ERROR)
    assert (lost.mean, lost.cell, lost.row()["n"]) == (None, "diverged", 0)
    save([chart_of([lost.row()], "title", ERROR)], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5_000


def test_a_wrong_list_of_batch_sizes_is_the_users_error(capsys):
    assert batch_sizes_of("8,2,8") == [2, 8]
    for wrong in ("8,,2", "0", "8.5", "a"):
        assert sweep.main([str(RECIPES / "digits/digits.py"), "--batch-sizes", wrong]) == 2
        assert "batch sizes such as" in capsys.readouterr().err


def continued(tmp_path: Path, *words: str, count: int = 1, **changes: object) -> int:
    """A sweep of digits at 720 that goes on from a published one of 32 and one seed, with `changes` in its
    rows and its command.
    """
    sizes = ["--batch-sizes", "32,720"]
    recipe = str(RECIPES / "digits/digits.py")
    more = ["--seeds", str(count), "--out", str(tmp_path / "second")]
    for point in points_of(arms_of(Path(recipe), []), [32, 720], [0], tmp_path / "first"):
        if not Path(point.jobs[0].run_dir).exists():
            finished(Path(point.jobs[0].run_dir), float(point.batch_size) / 10, peak=0.05)
            error = {"kind": "train", "epoch": 1.0, "examples": 10, "train_error": 5.0}
            write_rows(Path(point.jobs[0].run_dir), [error])
    made = points_of(arms_of(Path(recipe), []), [32], [0], tmp_path / "first")
    write_report(made, tmp_path, title="A title", command="first command", reference=32)
    data = json.loads((tmp_path / "sweep.json").read_text())
    data["rows"] = [row | changes for row in data["rows"]]
    (tmp_path / "sweep.json").write_text(json.dumps(data))
    return sweep.main([recipe, *sizes, *more, "--continue-from", str(tmp_path / "sweep.json"), *words])


def test_a_sweep_goes_on_from_a_published_one(tmp_path, monkeypatch):
    asked = trains_by_writing(monkeypatch)
    assert continued(tmp_path) == 0
    assert [job.run_dir.split("second/")[1] for job in asked] == [
        f"{arm}/batch720/seed0" for arm in ("unscaled", "linear", "linear+warm-up")
    ]
    data = json.loads((tmp_path / "second/sweep.json").read_text())
    arms = ("unscaled", "linear", "linear + warm-up")
    assert [(row["batch_size"], row["arm"], row["mean"]) for row in data["rows"]] == [
        (size, arm, mean) for arm in arms for size, mean in ((32, 3.2), (720, 50.0))
    ]
    # Whose numbers they are, and the curves of the runs that are gone.
    first, second = data["provenance"].split(" | ")
    assert first.startswith("first command; ") and "--continue-from" in second
    assert [row["provenance"] for row in data["rows"]] == 3 * [first, second]
    assert data["rows"][0]["train_error"] == [[[1], [5.0]]] and data["rows"][-1]["train_error"] == []
    # Continued once more with nothing to train, it is the same.
    asked.clear()
    again = tmp_path / "second/sweep.json"
    words = [str(RECIPES / "digits/digits.py"), "--batch-sizes", "720", "--seeds", "1"]
    assert sweep.main([*words, "--continue-from", str(again), "--out", str(tmp_path / "third")]) == 0
    third = json.loads((tmp_path / "third/sweep.json").read_text())
    assert not asked and {**third, "command": ""} == {**data, "command": ""}


def test_a_sweep_goes_on_from_one_of_an_earlier_version(tmp_path, monkeypatch):
    asked = trains_by_writing(monkeypatch)
    assert continued(tmp_path) == 0
    published = tmp_path / "sweep.json"
    data = json.loads(published.read_text())
    later = ("label", "evaluations", "recipe", "seeds", "settings", "train_error", "provenance")
    data["rows"] = [{key: row[key] for key in row.keys() - later} for row in data["rows"]]
    published.write_text(json.dumps({key: data[key] for key in data.keys() - {"overrides"}}))
    asked.clear()
    words = ["--batch-sizes", "32", "--seeds", "1", "--out", str(tmp_path / "third")]
    digits = str(RECIPES / "digits/digits.py")
    assert sweep.main([digits, *words, "--continue-from", str(published)]) == 0 and not asked


def trains_by_writing(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that were asked for, which all end with an error of 50 % at once."""
    asked: list[Job] = []

    def train(launch: Launch, jobs: Sequence[Job]) -> None:
        asked.extend(jobs)
        for job in jobs:
            finished(Path(job.run_dir), 50.0, peak=peak_lr(job.load()))

    monkeypatch.setattr(Launch, "train", train)
    return asked


def test_a_published_point_takes_more_seeds(tmp_path, monkeypatch):
    asked = trains_by_writing(monkeypatch)
    assert continued(tmp_path, count=3) == 0
    small = [job.run_dir.split("second/")[1] for job in asked if "batch32" in job.run_dir]
    assert small == ["unscaled/batch32/seed1", "unscaled/batch32/seed2"], "the second and third, once"
    row = json.loads((tmp_path / "second/sweep.json").read_text())["rows"][0]
    assert (row["top1_error"], row["n"], row["run_seconds"]) == ([3.2, 50.0, 50.0], 3, 3.0)
    assert row["seeds"] == [0, 1, 2] and row["settings"]["model.name"] == "cifar_resnet8"
    assert (row["mean"], row["std"]) == (pytest.approx(34.4), pytest.approx(27.0, abs=0.1))
    first, second = row["provenance"].split(" | ")
    assert first.startswith("first command; ") and "--seeds 3" in second


def test_where_the_data_lie_may_be_another_place(tmp_path, monkeypatch):
    asked = trains_by_writing(monkeypatch)
    assert continued(tmp_path, "data.workers=0") == 0
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arm": "lamb"}, "the arm lamb, and this sweep does not"),
        ({"seeds": [0, 1]}, "has the seeds 0, 1: use --first-seed 0 --seeds 2 or more"),
        ({"seeds": [3]}, "has the seeds 3: use --first-seed 3 --seeds 1 or more"),
        ({"settings": {"duration": "9ep"}}, "another recipe: duration is 9ep there, 20ep here"),
        ({"evaluations": 5}, "--evaluations: 5 there, 1 here"),
        ({"peak_lr": 0.06}, "peak learning rate: 0.06 there, 0.05 here"),
        ({"label": "mask AP"}, "it is scored by mask AP, and this sweep by top-1 error"),
    ],
)
def test_another_sweep_than_the_published_one_is_rejected(tmp_path, capsys, changes, said):
    assert continued(tmp_path, **changes) == 2
    assert said in capsys.readouterr().err


def test_overrides_and_files_that_are_no_sweep_are_rejected(tmp_path, capsys):
    assert continued(tmp_path, "duration=2ep") == 2
    assert "overrides: [] there, ['duration=2ep'] here" in capsys.readouterr().err
    row = {"arm": "linear", "label": "top-1 error", "batch_size": 32, "evaluations": 1, "peak_lr": 0.05}
    unscored = json.dumps({"rows": [row], "provenance": "", "overrides": []})
    for number, text in enumerate(("", "[]", "{}", '{"rows": [{}], "provenance": ""}', unscored)):
        (wrong := tmp_path / f"{number}.json").write_text(text)
        words = [str(RECIPES / "digits/digits.py"), "--batch-sizes", "32", "--continue-from", str(wrong)]
        assert sweep.main(words) == 2
        assert "is no published sweep" in capsys.readouterr().err
