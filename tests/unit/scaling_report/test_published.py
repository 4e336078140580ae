"""Predictions against published efficiencies: the project's stated bounds, held on every run where the table
is there; tables not stale.
"""

import csv

import pytest

from bench import hosts_prediction, scaling_prediction
from bench.rows import read
from bench.scaling_prediction import ALL_CHOICES, TABLE, Choices, Scores, compare
from tools.kit.publish import ROOT, with_block
from tools.scaling_report import publish
from tools.scaling_report.report import load


@pytest.fixture(scope="module")
def published() -> list[dict[str, str]]:
    if not TABLE.exists():
        pytest.skip(f"no table of published results at {TABLE}")
    return list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))


def test_published_efficiencies_are_predicted_within_three_points(published: list[dict[str, str]]) -> None:
    compared, left_out = compare(published)
    assert len(compared) >= 42
    assert len(left_out) <= 1
    scores = Scores.of(compared)
    assert scores.error <= 3
    assert 0.80 <= scores.coverage <= 0.97


def test_the_rows_in_the_repository_are_what_is_predicted_now(published: list[dict[str, str]]) -> None:
    compared, _ = compare(published)
    lines = read("scaling_prediction")
    assert len(lines) == len(compared)
    for line, each in zip(lines, compared, strict=True):
        assert float(line["predicted"]) == pytest.approx(each.predicted.efficiency, abs=2e-4), (
            "python -m bench.scaling_prediction"
        )
        assert float(line["low"]) == pytest.approx(each.predicted.efficiency_low, abs=2e-4)


def test_the_tables_of_the_page_are_what_the_rows_say() -> None:
    page = (ROOT / "docs/scaling.md").read_text()
    for name, bench, table in (
        ("published_rows", scaling_prediction, "scaling_prediction"),
        ("hosts", hosts_prediction, "hosts_prediction"),
    ):
        assert with_block(page, name, bench.block(read(table))) == page, (
            f"docs/scaling.md is stale: python -m bench.{table}"
        )


def test_the_readmes_demo_is_what_its_result_says() -> None:
    result, readme = ROOT / "results/scaling_demo.json", (ROOT / "README.md").read_text()
    assert with_block(readme, "scaling_demo", publish.block(load(result), "scaling_demo")) == readme
    assert (ROOT / "docs/scaling_demo.png").read_bytes().startswith(b"\x89PNG")


def test_blind_choices_include_those_that_stand() -> None:
    assert Choices() in ALL_CHOICES
    assert len(set(ALL_CHOICES)) == 16


def test_scores_by_hand() -> None:
    lines = [
        dict.fromkeys(("published", "predicted", "low", "high"), "0.9"),
        {"published": "0.8", "predicted": "0.9", "low": "0.85", "high": "0.95"},
    ]
    assert Scores.of_lines(lines, "") == Scores(pytest.approx(5), 0.5, pytest.approx(5))
