import csv
from pathlib import Path

import pytest

from bench import report
from bench.__main__ import _compared, regressions


def line(
    case: str, ratio: str, low: str, high: str, target: str = ">=0.97", unit: str = "images/s"
) -> report.Line:
    empty = dict.fromkeys(("ours", "peer"), "1.0") | dict.fromkeys(
        ("command", "commit", "date", "hardware", "versions"), "x"
    )
    return {
        **empty,
        "case": case,
        "peer_name": "peer",
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "target": target,
        "met": "yes",
        "unit": unit,
        "n": "3",
    }


def table(path: Path, lines: list[report.Line]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def test_rows_that_are_only_looked_at_make_no_page(tmp_path, monkeypatch, capsys):
    """LBTRAIN_RESULTS sends them elsewhere, and the page would lose all others."""
    before = report.PAGE.read_text(), report.PICTURE.read_bytes()
    monkeypatch.setattr(report.rows, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["report"])
    report.main()
    assert (report.PAGE.read_text(), report.PICTURE.read_bytes()) == before
    assert f"the rows are in {tmp_path}" in capsys.readouterr().out


def test_the_page_in_the_repository_is_what_the_rows_say():
    assert report.PAGE.read_text() == report.page(report.tables())


def test_what_was_missed_is_listed_with_its_ratio():
    missed = line("slow", "0.9", "0.8", "0.95") | {"met": "no"}
    unsure = line("near", "0.96", "0.95", "0.99") | {"met": "no"}
    assert report.not_met({"train": [line("a", "1", "1", "1"), unsure, missed]}).splitlines() == [
        "- train: slow, against peer: 0.900 (0.800 to 0.950), aim >=0.97",
        "- train: near, against peer: 0.960 (0.950 to 0.990), aim >=0.97, which lies within the interval",
    ]


def test_an_aim_within_the_interval_is_met_or_not_with_a_question_mark():
    lines = [
        line("sure", "1.1", "1.0", "1.2"),
        line("unsure", "0.98", "0.96", "1.0"),
        line("without", "0.98", "0.96", "1.0", ""),
    ]
    lines.append(line("missed", "0.96", "0.95", "0.99") | {"met": "no"})
    marks = [row.split(" | ")[5] for row in report._table(lines).splitlines()[2:]]
    assert marks == ["yes", "yes?", "yes", "no?"]


def test_a_single_time_has_no_interval_and_a_single_count_has_one():
    once = line("once", "1.1", "1.1", "1.1") | {"n": "1"}
    rows = [row.split(" | ") for row in report._table([once, once | {"unit": "products"}]).splitlines()[2:]]
    assert [(row[3], row[5]) for row in rows] == [("1.100", "yes?"), ("1.100 (1.100 to 1.100)", "yes")]


def test_a_ratio_that_misses_its_aim_is_not_rounded_onto_it():
    missed = line("near", "0.96975", "0.95", "0.99") | {"met": "no"}
    assert " 0.9698 (0.950 to 0.990) " in report._row(missed)


def test_a_newer_row_of_a_case_replaces_the_older(tmp_path):
    lines = [line("a", "0.9", "0.8", "1.0"), line("b", "0.5", "0.4", "0.6"), line("a", "1.1", "1.0", "1.2")]
    path = table(tmp_path / "rows.csv", lines)
    assert [(row["case"], row["ratio"]) for row in report.newest(path)] == [("a", "1.1"), ("b", "0.5")]


def test_a_table_of_another_kind_is_not_read_as_one_of_ratios(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("fault,seconds\nkill,1\n")
    assert report.newest(path) == []


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (("0.98", "0.9", "1.0"), False),
        (("0.94", "0.9", "1.0"), False),
        (("0.89", "0.8", "0.91"), True),
        (("0.89", "0.8", "0.95"), False),
        (("1.2", "1.1", "1.3"), False),
    ],
    ids=["as before", "within the spread", "slower", "slower within its own", "faster"],
)
def test_a_regression_is_slower_than_the_last_row_beyond_its_spread(now, found):
    assert bool(regressions([line("a", "0.98", "0.92", "1.05")], [line("a", *now)])) == found


def test_where_less_is_better_a_larger_ratio_is_the_regression():
    before = [line("a", "0.75", "0.7", "0.8", "<=1.0", "ms")]
    assert regressions(before, [line("a", "0.9", "0.85", "0.95", "<=1.0", "ms")])
    assert not regressions(before, [line("a", "0.6", "0.5", "0.7", "<=1.0", "ms")])


def test_a_new_row_is_no_regression():
    assert not regressions([], [line("a", "0.1", "0.1", "0.1")])


def test_a_share_of_a_rate_grows_when_it_gets_better():
    before = [line("a", "0.8", "0.78", "0.82", "", "of 1")]
    assert regressions(before, [line("a", "0.6", "0.58", "0.62", "", "of 1")])
    assert not regressions(before, [line("a", "0.95", "0.93", "0.97", "", "of 1")])


def test_a_regression_names_the_packages_that_had_other_versions():
    before = line("a", "1", "0.9", "1.1") | {"versions": "torch=2.9 timm=1.0"}
    (worse,) = regressions([before], [line("a", "0.5", "0.4", "0.6") | {"versions": "torch=2.10 timm=1.0"}])
    assert worse == "a against peer: ratio 0.500, was 1.000, then with torch=2.9"


def test_new_ratios_are_compared_with_rows_of_the_same_hardware_only(tmp_path, monkeypatch, capsys):
    """The last row of `a` is of another machine, and so are all of `b`; `c` was not measured now."""
    here, there = {"hardware": "here"}, {"hardware": "there"}
    bad = ("0.5", "0.4", "0.6")
    old = [
        line("a", "1", "0.9", "1.1") | here,
        line("a", *bad) | there,
        line("b", "1", "0.9", "1.1") | there,
        line("c", "1", "0.9", "1.1") | here,
    ]
    for name in ("results", "now"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(report.rows, "RESULTS", tmp_path / "results")
    table(tmp_path / "results/train.csv", old)
    now = table(tmp_path / "now/train.csv", [line("a", *bad) | here, line("b", *bad) | here])
    assert _compared(now) == ["a against peer: ratio 0.500, was 1.000"]
    assert capsys.readouterr().out.splitlines() == [
        "train: not compared with its last row, since it was not measured now: c",
        "train: not compared, since there is no row of here: b against peer",
    ]
