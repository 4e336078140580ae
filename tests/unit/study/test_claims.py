"""What the sources claim, compared with published results: the outcome follows from the numbers alone."""

import csv
import json

import pytest

from lbtrain.recipe.files import RECIPES
from lbtrain.recipe.findings import held
from tools.study import claims

CLAIM = {
    "result": "x",
    "arm": "a",
    "batch_size": "720",
    "reference_result": "",
    "reference": "b",
    "reference_batch_size": "32",
    "measure": "",
}


@pytest.mark.parametrize(
    ("bound", "gap", "error", "said"),
    [
        ("<=1.0", 0.3, 0.5, "held"),
        ("<=1.0", 0.3, 0.8, "open"),
        ("<=1.0", 2.0, 0.8, "not held"),
        (">1.0", 2.0, 0.8, "held"),
        (">1.0", 0.1, 0.8, "not held"),
        (">1.0", 1.1, 0.8, "open"),
        ("<=0.0", -0.5, 0.4, "held"),
        ("<=0.0", 30.0, float("inf"), "open"),
        ("<=1.0", float("inf"), 0.0, "not held"),
        (">1.0", float("inf"), 0.0, "held"),
        ("<=0.0", float("-inf"), 0.0, "held"),
        ("<=0.0", float("nan"), 0.0, "open"),
    ],
)
def test_a_claim_is_open_where_its_bound_lies_within_the_interval(bound, gap, error, said):
    assert held(bound, gap, error) == said


def result(tmp_path, *rows):
    names = ("arm", "batch_size", "mean", "std", "n", "diverged")
    (tmp_path / "x.json").write_text(
        json.dumps({"rows": [dict(zip(names, row, strict=True)) for row in rows]})
    )
    return claims.judged({**CLAIM, "difference": "<=1.0"}, tmp_path)


def test_the_difference_has_the_interval_of_welch(tmp_path):
    small = ("b", 32, 1.0, 0.3, 4, 0)
    # The standard error is 0.25, with 5.56 degrees of freedom.
    assert result(tmp_path, ("a", 720, 1.2, 0.4, 4, 0), small) == ("+0.20 ± 0.62 (4, 4)", "held")
    assert result(tmp_path, ("a", 720, 1.5, 0.4, 4, 0), small) == ("+0.50 ± 0.62 (4, 4)", "open")
    assert result(tmp_path, ("a", 720, 1.2, 0.0, 4, 0), ("b", 32, 1.0, 0.0, 4, 0)) == ("+0.20 (4, 4)", "open")
    assert result(tmp_path, ("a", 720, 1.5, 0.0, 1, 0), small) == ("+0.50 (1, 4)", "open")
    assert result(tmp_path, ("a", 720, 1.5, 0.4, 3, 1), small) == ("diverged", "not held")
    assert result(tmp_path, ("a", 32, 1.5, 0.4, 3, 1), small) == ("-", "not measured")
    assert claims.judged({**CLAIM, "difference": "<=1.0"}, tmp_path / "elsewhere") == ("-", "not measured")


def test_the_reference_may_be_of_a_result_of_its_own(tmp_path):
    point = {"std": 0.3, "n": 4, "diverged": 0}
    for name, row in {
        "x": {"arm": "a", "batch_size": 720, "mean": 1.2},
        "y": {"arm": "b", "batch_size": 32, "mean": 1.0},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": [row | point]}))
    claim = {**CLAIM, "difference": "<=1.0"}
    assert claims.judged(claim, tmp_path) == ("-", "not measured")
    assert claims.judged(claim | {"reference_result": "y"}, tmp_path) == ("+0.20 ± 0.52 (4, 4)", "held")


def test_the_best_trials_of_a_search_on_other_seeds_can_be_compared(tmp_path):
    point = {"batch_size": 720, "std": 0.3, "n": 5, "diverged": 0, "recipe": ""}
    arms = [point | {"arm": "a/trial003", "mean": 1.0}, point | {"arm": "b/trial000", "mean": 2.0}]
    (tmp_path / "x.json").write_text(json.dumps({"trials": [], "arms": arms}))
    claim = {**CLAIM, "reference_batch_size": "720", "difference": "<=0.0"}
    assert claims.judged(claim, tmp_path) == ("-1.00 ± 0.44 (5, 5)", "held")


def test_a_measure_of_sharpness_is_compared_by_its_own_values(tmp_path):
    other = {"mean": 9.0, "std": 9.0, "n": 9, "diverged": 0}
    rows = [
        {"arm": name, "batch_size": size, **other, "measures": {"m": values}}
        for name, size, values in (("a", 720, [3.0, 3.2]), ("b", 32, [1.0, 1.2]))
    ]
    (tmp_path / "x.json").write_text(json.dumps({"rows": rows}))
    found = claims.judged({**CLAIM, "measure": "m", "difference": ">0.0"}, tmp_path)
    assert found == ("+2.00 ± 0.61 (2, 2)", "held")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "a at 720 with b at 32"),
        ({"reference": "a"}, "a: 720 with 32"),
        ({"batch_size": "4096", "reference_batch_size": "4096"}, "at 4,096: a with b"),
        ({"arm": "a/batch720", "reference": "b/batch32", "measure": "m"}, "a at 720 with b at 32; m"),
    ],
)
def test_both_sides_of_a_claim_are_named(changes, said):
    assert claims._compared(CLAIM | changes) == said


def test_a_result_that_has_only_some_of_its_points_is_still_to_be_measured(monkeypatch):
    whole = claims._result
    part = [{"arm": "resnet8", "batch_size": 128, "mean": 20.0, "std": 0.1, "n": 3, "diverged": 0}]
    monkeypatch.setattr(
        claims, "_result", lambda name, folder: part if name == "cifar10_methods" else whole(name, folder)
    )
    assert claims.COMMANDS["methods"] in claims.table()


def test_every_claim_compares_points_that_exist_or_can_be_measured():
    with claims.CLAIMS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 18
    for row in rows:
        measured = claims.judged(row)[1] != "not measured"
        assert measured or row["command"] in claims.COMMANDS, row
        for arm in (row["arm"], row["reference"]):
            known = arm in ("unscaled", "linear", "linear + warm-up") or list(RECIPES.rglob(f"{arm}.py"))
            assert measured or known, arm
