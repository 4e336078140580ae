"""The page of runs names the rank that the others waited for, and for how long."""

import pytest
from matplotlib.figure import Figure

from tests.run_rows import write_rows
from tools.scaling_report.__main__ import main
from tools.scaling_report.stragglers import Waits, charts, table


def _row(epoch: float, rank: int | None, wait: float, images_per_sec: float = 100.0) -> dict[str, object]:
    host = None if rank is None else f"node{rank // 2:02}"
    return {
        "kind": "train", "epoch": epoch, "examples": round(1000 * epoch), "images_per_sec": images_per_sec,
        "slowest_rank": rank, "slowest_host": host, "rank_wait": wait,
    }  # fmt: skip


ROWS = [
    _row(1, 3, 0.2),
    {"kind": "eval", "epoch": 1, "examples": 1000, "metrics": {}, "seconds": 1.0},
    _row(2, 0, 0.1),
    _row(3, 3, 0.4, images_per_sec=50.0),
]


def test_a_rank_is_weighed_by_the_seconds_of_its_rows():
    waits = Waits.of("resnet", ROWS)
    assert waits.by_rank() == {
        "rank 3 on node01": (pytest.approx(30 / 40), pytest.approx((2 + 8) / 40)),
        "rank 0 on node00": (pytest.approx(10 / 40), pytest.approx(1 / 40)),
    }
    assert next(iter(waits.by_rank())) == "rank 3 on node01"


@pytest.mark.parametrize("averaged", [{"averaged_images": 1000}, {}])
def test_measurements_between_two_rows_take_none_of_their_seconds(averaged):
    rows = [
        {"kind": "noise", "examples": 1000},
        _row(1, 3, 0.2) | averaged,
        {"kind": "eval", "epoch": 1.9, "examples": 1900},
        {"kind": "noise", "examples": 2000},
        _row(2, 0, 0.1) | averaged,
    ]
    assert [seconds for *_, seconds in Waits.of("resnet", rows).rows] == [10, 10]


def test_a_row_after_a_restart_stands_for_the_images_that_it_averages():
    rows = [_row(1, 3, 0.2), _row(2, 0, 0.1) | {"averaged_images": 400}]
    assert [seconds for *_, seconds in Waits.of("resnet", rows).rows] == [10, 4]


def test_the_page_names_rank_and_host_of_every_run(tmp_path, capsys):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        write_rows(folder, ROWS)
    assert main(["stragglers", *map(str, folders), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page/stragglers.html").read_text()
    assert page.count("<svg") == 2 and (tmp_path / "page/stragglers.png").stat().st_size > 5000
    said = "the ranks waited 27.5% of the time for the slowest, most of it for rank 3 on node01"
    out = capsys.readouterr().out
    for name in ("first", "second"):
        assert f"{name}: {said}" in page and f"{name}: {said}" in out
    assert "25.00%" in out and "2.50%" in out


@pytest.mark.parametrize(("runs", "named"), [(8, True), (9, False)])
def test_a_legend_never_covers_the_lines(runs, named):
    axes = Figure().subplots()
    charts([Waits.of(f"seed{number}", ROWS) for number in range(runs)])[0].draw(axes)
    assert (axes.get_legend() is not None) == named and len(axes.lines) == runs


@pytest.mark.parametrize(("runs", "rows", "shortened"), [(1, 2, False), (12, 24, False), (20, 20, True)])
def test_of_many_runs_the_table_has_the_worst_ranks(runs, rows, shortened):
    found = table([Waits.of(f"seed{number}", ROWS) for number in range(runs)])
    assert len(found.rows) == rows and ("of each run, the worst 1" in found.title) == shortened
    assert found.rows[-1][1] == ("rank 3 on node01" if shortened else "rank 0 on node00")


def test_runs_of_one_name_are_told_apart(tmp_path, capsys):
    folders = [tmp_path / name / "seed0" for name in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        write_rows(folder, ROWS)
    assert main(["stragglers", *map(str, folders)]) == 0
    assert (folders[0] / "stragglers.html").exists()
    out = capsys.readouterr().out
    assert all(f"{folder}: the ranks" in out for folder in folders)


@pytest.mark.parametrize(
    ("rows", "said"), [([_row(1, None, 0)], "had one rank only"), (None, "is not a run directory")]
)
def test_a_run_without_ranks_is_one_line(tmp_path, capsys, rows, said):
    if rows:
        write_rows(tmp_path, rows)
    assert main(["stragglers", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
