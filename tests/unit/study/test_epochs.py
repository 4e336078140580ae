"""Epochs to a score between sweeps of several durations, worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lbtrain.errors import RecipeError
from tools.study import epochs
from tools.study.epochs_report import Goal, report
from tools.study.epochs_series import Needed, Series, Trained, changes, read_series


def series(*means: float, std: float = 0.0, n: int = 1, batch_size: int = 128, arm: str = "a") -> Series:
    """Runs of 8, 16, 32 ... epochs of 51,200 examples."""
    trained = [
        Trained(8.0 * 2**power, 8 * 2**power * 51200 // batch_size, mean, std, n, {})
        for power, mean in enumerate(means)
    ]
    return Series(arm, batch_size, tuple(trained))


def row(batch_size: int, mean: float | None, **more: Any) -> dict[str, Any]:
    own = {"arm": "linear", "batch_size": batch_size, "steps": 8 * 51200 // batch_size, "mean": mean}
    return own | {"std": 0.5, "n": 3, "diverged": 0, "label": "top-1 error"} | more


def sweep(tmp_path: Path, duration: str, *rows: dict[str, Any]) -> Path:
    """The --out folder of one, whose rows say their duration."""
    folder = tmp_path / duration
    folder.mkdir()
    told = [{"settings": {"duration": duration}} | each for each in rows]
    (folder / "sweep.json").write_text(json.dumps({"rows": told}))
    return folder


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (30, 8),
        (25, 8 * 2**0.5),  # half of the way from 30 to 20, on the logarithm of the epochs
        (20, 16),
        (19, 16 * 2**0.25),  # a quarter of the way from 20 to 16
        (16, 32),
    ],
)
def test_a_score_lies_on_a_line_over_the_logarithm_of_the_epochs(score, expected):
    falling, rising = series(30, 20, 16), series(70, 80, 84)
    assert falling.needed(score).value == pytest.approx(expected)
    assert rising.needed(100 - score).value == pytest.approx(expected)
    assert falling.steps(expected) == pytest.approx(expected * 400)


def test_nothing_is_said_beyond_what_was_trained():
    falling, rising = series(30, 20), series(70, 80)
    assert falling.needed(31) is falling.needed(19) is rising.needed(69) is rising.needed(81) is None
    assert (falling.outside(31), falling.outside(19)) == ("8 or less", "more than 16")
    assert (rising.outside(69), rising.outside(81)) == ("8 or less", "more than 16")


def test_the_interval_is_where_the_ends_of_the_means_intervals_have_the_score():
    half = 4.302653 / math.sqrt(3)  # Student's t of two degrees of freedom, times a mean's error
    needed = series(30, 20, std=1.0, n=3).needed(25)
    assert needed.low == pytest.approx(8 * 2 ** ((5 - half) / 10), rel=1e-5)
    assert needed.high == pytest.approx(8 * 2 ** ((5 + half) / 10), rel=1e-5)
    rising = series(70, 80, std=1.0, n=3).needed(75)
    assert (rising.low, rising.high) == pytest.approx((needed.low, needed.high))
    assert needed.interval(1) == " (95%: 9.5 to 13.4)"


def test_an_end_that_no_duration_bounds_is_open():
    assert series(30, 20, std=1.0, n=3).needed(29).interval(1) == " (95%: below 10.2)"
    assert series(30, 20, std=1.0, n=3).needed(21).interval(1) == " (95%: above 12.6)"
    assert series(30, 28, std=1.0, n=3).needed(29).interval(1) == " (without bounds)"
    assert series(30, 20).needed(25).interval(1) == ""  # a single run says nothing of the spread


def test_a_ratio_combines_the_intervals_of_both():
    ratio = Needed(20, 16, 25).over(Needed(10, 8, 12.5))
    width = math.sqrt(2) * math.log(1.25)
    assert ratio.value == 2
    assert (ratio.low, ratio.high) == pytest.approx((2 * math.exp(-width), 2 * math.exp(width)))
    # The upper end of the one goes with the lower end of the other.
    assert Needed(20, 16, math.inf).over(Needed(10, 10, 10)) == Needed(2, pytest.approx(1.6), math.inf)
    assert Needed(20, 20, 20).over(Needed(10, 8, math.inf)) == Needed(2, 0, pytest.approx(2.5))
    assert Needed(20, None, None).over(Needed(10, 8, 12)) == Needed(2, None, None)


def test_the_best_arm_of_each_batch_size_is_compared_with_the_smallest():
    small, large = series(30, 20), series(40, 30, 20, batch_size=1024, arm="linear")
    better = series(35, 25, 15, batch_size=1024, arm="lamb")
    goal = Goal(25, tuple((each, each.needed(25)) for each in (small, large, better)))
    assert [each.arm for each, _ in goal.best] == ["a", "lamb"]
    assert goal.outcomes("top-1 error") == [
        "top-1 error of 25 %: batch 1,024 (lamb) needs 1.41 times the epochs of batch 128, in 5.7 times "
        "fewer steps"
    ]
    assert [line[3:] for line in goal.rows()] == [["11.3", "4,525"], ["22.6", "1,131"], ["16.0", "800"]]
    nothing = Goal(50, ((small, small.needed(50)),))
    assert "no batch size has it" in nothing.outcomes("top-1 error")[0]


def test_sweeps_are_read_together(tmp_path):
    # At the base batch the rules are the same runs; a point whose runs diverged has no mean to be compared.
    base = [row(128, 30.0, arm=arm) for arm in ("unscaled", "linear")]
    short = sweep(tmp_path, "8ep", *base, row(1024, 40.0), row(4096, None, n=0, diverged=3))
    long = sweep(tmp_path, "16ep", *(each | {"mean": 20.0} for each in base), row(1024, 25.0))
    found, label = read_series([long, short / "sweep.json"])
    assert label == "top-1 error"
    assert [(each.name, [run.epochs for run in each.trained]) for each in found] == [
        ("linear, batch 128", [8, 16]),
        ("linear, batch 1,024", [8, 16]),
    ]


def test_rows_of_earlier_versions_last_as_long_as_the_others_of_their_sweep(tmp_path):
    sweep(tmp_path, "16ep", row(1024, 25.0))
    file = tmp_path / "16ep" / "sweep.json"
    rows = [row(128, 20.0), *json.loads(file.read_text())["rows"]]
    file.write_text(json.dumps({"rows": rows}))
    found, _ = read_series([file])
    assert [each.trained[0].epochs for each in found] == [16, 16]
    file.write_text(json.dumps({"rows": rows[:1]}))
    with pytest.raises(RecipeError, match="does not say how many epochs linear has at batch size 128"):
        read_series([file])


def test_what_differs_beside_the_duration_is_said():
    runs = [
        Trained(epochs, 10, 20.0, 0.0, 1, {"duration": f"{epochs}ep", "seed": "0"} | more)
        for epochs, more in ((8, {"precision": "bf16", "no_longer.here": "1"}), (16, {}))
    ]
    assert changes(Series("linear", 128, tuple(runs))) == [
        "linear, batch 128: no_longer.here is 1 and the default, by duration",
        "linear, batch 128: precision is bf16 and fp32, by duration",
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[row(128, 20.0)], [row(128, 20.0, label="mask AP")]], "scored by different metrics"),
        ([[row(128, 20.0)], [row(1024, 20.0)]], "no arm has one batch size in two"),
        ([[row(128, 20.0)], [row(128, 20.0, settings={"duration": "8ep"})]], "two sweeps of one duration"),
        ([[row(128, 20.0)], [row(128, 20.0, settings={"duration": "500it"})]], "how many epochs linear has"),
        ([[{"arm": "linear"}]], "is no result of a sweep"),
        ([[]], "no arm has"),
    ],
)
def test_sweeps_that_do_not_go_together_are_rejected(tmp_path, capsys, rows, said):
    folders = [sweep(tmp_path, f"{8 * (number + 1)}ep", *each) for number, each in enumerate(rows)]
    out = tmp_path / "out"
    assert epochs.main([*map(str, folders), "--scores", "25", "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("text", ["", "x", "25,", "0", "101", "nan", "-1"])
def test_a_wrong_score_is_the_users_error(tmp_path, capsys, text):
    with pytest.raises(SystemExit) as exit_:
        epochs.main([str(tmp_path), f"--scores={text}"])
    assert exit_.value.code == 2
    assert "--scores" in (said := capsys.readouterr().err) and "is not a percentage between 0 and 100" in said


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"rows": [1]}', '{"rows": 3}'])
def test_a_file_that_is_no_sweep_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(RecipeError, match=r"sweep\.json is no result of a sweep"):
        read_series([tmp_path])


def test_the_report_has_table_curves_and_data(tmp_path):
    folders = [
        sweep(tmp_path, "8ep", row(128, 30.0), row(1024, 40.0), row(4096, 50.0, n=1)),
        sweep(tmp_path, "32ep", row(128, 15.0), row(1024, 20.0), row(4096, 45.0, n=1)),
    ]
    out = tmp_path / "out"
    text = report(folders, [25, 10], out, title="Epochs", command="study epochs")
    assert "top-1 error of 25 %: batch 1,024 (linear) needs 1.78 times the epochs of batch 128" in text
    assert "top-1 error of 10 %: no batch size has it" in text
    data = json.loads((out / "epochs.json").read_text())
    first = data["goals"][0]["points"][0]
    assert (first["batch_size"], first["epochs"]) == (128, pytest.approx(8 * 4 ** (1 / 3)))
    assert first["epochs_interval"][0] < first["epochs"] < first["epochs_interval"][1]
    assert data["goals"][1]["points"] == []
    assert (out / "epochs.png").stat().st_size > 10_000
    page = (out / "epochs.html").read_text()
    assert page.count("<svg") == 3
