import csv
import math
import random
import runpy
from pathlib import Path

import pytest

from bench import rows


def row(ours: list[float], peer: list[float], target: str) -> rows.Row:
    return rows.paired(
        "b", "case", "peer", ours, peer, unit="images/s", target=target, command="python -m bench.b"
    )


def test_the_ratio_is_the_median_of_the_paired_ratios_not_the_ratio_of_medians():
    # Round by round 2, 1 and 0.5: the machine slowed down, not the loops.
    measured = row([200.0, 50.0, 10.0], [100.0, 50.0, 20.0], "")
    assert (measured.ratio, measured.ratio_low, measured.ratio_high, measured.n) == (1.0, 0.5, 2.0, 3)


def test_the_interval_of_a_median_leaves_out_what_the_binomial_allows():
    # n = 21: five values at either end have together a chance of 2 x 1.3 %, six would have 2 x 3.9 %.
    assert rows.median_interval([float(value) for value in range(21)]) == (5.0, 15.0)
    assert rows.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_the_interval_holds_the_true_median_in_95_of_100_samples():
    generator = random.Random(0)
    samples = [rows.median_interval([generator.expovariate(1) for _ in range(15)]) for _ in range(2000)]
    assert 0.94 < sum(low <= math.log(2) <= high for low, high in samples) / len(samples) < 0.98


@pytest.mark.parametrize(
    ("target", "met"), [(">=0.97", "yes"), (">=1.01", "no"), ("<=1.0", "yes"), ("<=0.9", "no"), ("", "")]
)
def test_targets_are_bounds_on_the_ratio(target, met):
    assert row([1.0], [1.0], target).met == met


def test_rows_are_appended_with_their_origin(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    for _ in range(2):
        path = rows.write([row([1.0], [2.0], ">=0.97")], "b")
    with path.open() as file:
        written = list(csv.DictReader(file))
    assert [line["ratio"] for line in written] == ["0.5", "0.5"]
    assert all(
        line["commit"] and line["hardware"] and "torch=" in line["versions"] and line["met"] == "no"
        for line in written
    )
    assert "not met" in capsys.readouterr().out


def test_rows_of_other_columns_than_the_file_are_rejected_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    path = rows.append([{"a": 1, "b": 2}], "x")
    before = path.read_bytes()
    for lines in ([{"b": 20, "a": 10, "new": 5}], [{"a": 10, "b": 20}, {"a": 10}]):
        with pytest.raises(ValueError, match=r"x\.csv: rows with the columns .* do not belong under"):
            rows.append(lines, "x")
        assert path.read_bytes() == before
    with pytest.raises(ValueError, match="do not belong under"):
        rows.replace([{"a": 1}, {"b": 2}], "x")
    assert path.read_bytes() == before, "a replacement that cannot be written leaves the file as it was"


def test_rows_go_under_the_columns_of_the_file_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    (tmp_path / "x.csv").touch()  # what a write that was cut off leaves
    for line in ({"a": 1, "b": 2}, {"b": 20, "a": 10}):
        rows.append([line], "x")
    assert [(line["a"], line["b"]) for line in rows.read("x")] == [("1", "2"), ("10", "20")]


@pytest.mark.parametrize("folder", ["", "elsewhere"])
def test_an_empty_name_of_a_folder_for_rows_is_none(folder, monkeypatch):
    monkeypatch.setenv("LBTRAIN_RESULTS", folder)
    fresh = runpy.run_path(rows.__file__)
    assert fresh["RESULTS"] == (Path(folder) if folder else Path(rows.__file__).parents[1] / "results")
