"""What a table or a report may state, which users write or edit by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.scaling_report.report import Report, ReportError, Row, load

ROW = Row(gpus=8, nodes=1, images_per_s=800.0, images_per_s_gpu=100.0)


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("per_gpu_batch", "-64", "per_gpu_batch=-64 must be a whole number above 0"),
        ("per_gpu_batch", "0", "per_gpu_batch=0 must be a whole number above 0"),
        ("per_gpu_batch", "0.5", "per_gpu_batch=0.5 must be a whole number"),
        ("per_gpu_batch", "64 img", "per_gpu_batch='64 img' must be a whole number"),
        ("accumulation", "-2", "accumulation=-2 must be a whole number above 0"),
        ("zero_stage", "7", "zero_stage=7 must be 0, 1, 2 or 3"),
        ("mode", "Weak", "mode='Weak' must be weak or strong"),
        ("nodes", "17", "nodes=17 must be 16 at most"),
        ("compute_s", "fast", "compute_s='fast' must be a number"),
        ("step_p50_s", "-0.2", "step_p50_s=-0.2 must be a number, and not negative"),
        ("images_per_s_gpu", "5300", "images_per_s_gpu=5300 must be 331.25: images_per_s=5300 is of all 16"),
    ],
)  # fmt: skip
def test_a_cell_that_cannot_be_is_named_with_line_and_column(
    column: str, cell: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(f"gpus,images_per_s,{column}\n8,2800,\n16,5300,{cell}\n")
    with pytest.raises(ReportError) as error:
        load(tmp_path / "a.csv")
    assert f"line 3: {said}" in str(error.value)


@pytest.mark.parametrize("cell", ["OOM", '"5,300"'])
def test_images_per_s_that_are_no_number_are_named(cell: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"gpus,images_per_s\n8,2800\n16,{cell}\n")
    with pytest.raises(
        ReportError, match=r"line 3: images_per_s='.*' must be a number above 0, without marks"
    ):
        load(tmp_path / "a.csv")


def test_a_batch_that_contradicts_its_parts_is_rejected(tmp_path: Path) -> None:
    table, head = tmp_path / "a.csv", "gpus,images_per_s,per_gpu_batch,accumulation,global_batch"
    table.write_text(f"{head}\n8,2800,64,,512\n16,5300,64,2,2048\n")
    assert [row.global_batch for row in load(table).rows] == [512, 2048]
    table.write_text(f"{head}\n8,2800,64,,512\n16,5300,64,2,1024\n")
    with pytest.raises(ReportError, match=r"line 3: global_batch=1024 must be 2048: 16 GPUs with .*=64 and"):
        load(table)


def test_texts_of_a_table_stay_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("gpus,images_per_s,slowest_host,slowest_rank\n8,2800,12,0\n")
    (row,) = load(tmp_path / "a.csv").rows
    assert (row.slowest_host, row.slowest_rank) == ("12", 0)


def _edited(path: Path, **values: Any) -> Path:
    report = json.loads(Report(rows=[ROW, replace(ROW, gpus=16, images_per_s=1600.0)]).text())
    report["rows"][1] |= values
    path.write_text(json.dumps(report))
    return path


@pytest.mark.parametrize(
    "values", [{"gpus": "8"}, {"gpus": 0}, {"gpus": None}, {"per_gpu_batch": 1.5}, {"mode": 1}]
)
def test_a_report_that_was_edited_names_the_row_and_the_field(values: dict[str, Any], tmp_path: Path) -> None:
    (name,) = values
    with pytest.raises(ReportError, match=f"number 2 of its rows: {name}=.* must be a"):
        load(_edited(tmp_path / "a.json", **values))


def test_a_point_that_was_rejected_keeps_a_batch_that_cannot_be_split(tmp_path: Path) -> None:
    few = {"per_gpu_batch": 0, "global_batch": 4, "status": "rejected: batch_size=4", "images_per_s": None}
    assert load(_edited(tmp_path / "a.json", **few)).rows[1].per_gpu_batch == 0


def test_the_interval_of_wild_values_may_reach_below_0(tmp_path: Path) -> None:
    wild = {"images_per_s_gpu_low": -3.5, "images_per_s_gpu_high": 203.5}
    assert load(_edited(tmp_path / "a.json", **wild)).rows[1].images_per_s_gpu_low == -3.5
