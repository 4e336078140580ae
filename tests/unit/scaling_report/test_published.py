"""Predictions against published efficiencies: the project's stated bounds, held on every run where the table is there."""

import csv
import statistics
from pathlib import Path

import pytest

from bench.scaling_prediction import compare

TABLE = Path(__file__).parents[4] / "shared" / "reference" / "scaling.csv"


def test_published_efficiencies_are_predicted_within_three_points() -> None:
    if not TABLE.exists():
        pytest.skip(f"no table of published results at {TABLE}")
    compared, left_out = compare(list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines())))
    assert len(compared) >= 42
    assert len(left_out) <= 1
    assert statistics.mean(abs(each.error) for each in compared) <= 3
    assert 0.80 <= statistics.mean(each.inside for each in compared) <= 0.97
