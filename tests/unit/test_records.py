"""What a run writes: every step stands once, whatever happened in between."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.files import write_whole
from lbtrain.runs.records import Records
from lbtrain.runs.rows import EvalRow, TrainRow, flat


def train_row(step: int, **changes) -> TrainRow:
    row = TrainRow(
        step,
        32 * step,
        step / 10,
        batch_size=32,
        lr=0.1,
        loss=2.0,
        images_per_sec=1234.5,
        data_wait=0.25,
        skipped_steps=0,
    )
    return dataclasses.replace(row, **changes)


def eval_row(step: int) -> EvalRow:
    return EvalRow(
        step, 32 * step, step / 10, {"top1_error": 12.5, "top5_error": 1.5, "loss": 0.5}, seconds=0.1
    )


def write(run_dir: Path, rows, **settings) -> None:
    records = Records(run_dir, enabled=True, on_screen=True, total_examples=320, **settings)
    for row in rows:
        records.write(row)
    records.close()


def let_a_second_pass(run_dir: Path) -> None:
    """TensorBoard reads files by name: second, then a count of the process, in which 10 comes before 9."""
    (file,) = (run_dir / "tensorboard").iterdir()
    file.rename(file.with_name(file.name.replace("tfevents.", "tfevents.0")))


def lines(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_rows_have_all_their_fields_and_types(tmp_path):
    write(tmp_path, [train_row(1), eval_row(1)])
    assert lines(tmp_path) == [flat(train_row(1)), flat(eval_row(1))]
    assert list(flat(eval_row(1))) == [
        "step",
        "examples",
        "epoch",
        "top1_error",
        "top5_error",
        "loss",
        "seconds",
        "replaced_images",
        "kind",
    ]
    assert [row["kind"] for row in lines(tmp_path)] == ["train", "eval"]


def test_a_row_is_on_disk_as_soon_as_it_is_written(tmp_path):
    records = Records(tmp_path, enabled=True, on_screen=True, total_examples=320)
    records.write(train_row(1))
    assert len(lines(tmp_path)) == 1
    records.close()


def test_rows_of_a_run_that_starts_anew_are_kept_beside(tmp_path, capsys):
    for start in (1, 2, 3):
        write(tmp_path, [train_row(start)])
    assert [row["step"] for row in lines(tmp_path)] == [3]
    for number in (1, 2):
        (row,) = (tmp_path / f"metrics.jsonl.{number}").read_text().splitlines()
        assert json.loads(row)["step"] == number
    assert f"no checkpoint is left, are in {tmp_path}/metrics.jsonl.2\n" in capsys.readouterr().out


def test_rows_behind_the_checkpoint_are_dropped_on_resume(tmp_path):
    write(tmp_path, [train_row(1), train_row(2), eval_row(2), train_row(3), eval_row(3)])
    write(tmp_path, [train_row(3, loss=1.0)], resumed_at=64)
    assert [(row["kind"], row["step"], row["loss"]) for row in lines(tmp_path)] == [
        ("train", 1, 2.0),
        ("train", 2, 2.0),
        ("eval", 2, 0.5),
        ("train", 3, 1.0),
    ]


def test_a_line_that_a_crash_cut_off_does_not_stop_the_resume(tmp_path):
    write(tmp_path, [train_row(1), train_row(2)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "exam')
    write(tmp_path, [train_row(3)], resumed_at=64)
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3]


def test_a_new_start_forgets_old_rows(tmp_path):
    write(tmp_path, [train_row(1)])
    write(tmp_path, [train_row(2)])
    assert [row["step"] for row in lines(tmp_path)] == [2]


def test_resuming_without_a_metrics_file_begins_one(tmp_path):
    write(tmp_path, [train_row(3)], resumed_at=64)
    assert [row["step"] for row in lines(tmp_path)] == [3]


def test_a_silent_copy_writes_nothing(tmp_path, capsys):
    records = Records(tmp_path, enabled=False, on_screen=True, total_examples=320)
    records.write(train_row(1))
    records.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    write(tmp_path, [train_row(1), train_row(2), eval_row(2)])
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split() == ["step", "1", "epoch", "0.10", "loss", "2.0000", "lr", "0.1", "1,234", "images/s"]
    assert re.search(r"step 2 .* ETA \d+:\d\d:\d\d$", second)
    assert third == "evaluation  epoch 0.20  top1_error 12.5  top5_error 1.5  loss 0.5  (0.1 s)"


@pytest.mark.parametrize("extra", [{}, {"purged": 64}])
def test_tensorboard_holds_every_number_by_examples(tmp_path, extra):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, [train_row(1), train_row(2), eval_row(2), train_row(3)])
    if extra:
        let_a_second_pass(tmp_path)
        write(tmp_path, [train_row(3, loss=1.0)], resumed_at=extra["purged"])
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [32, 64, 96]
    assert board.Scalars("train/loss")[-1].value == (1.0 if extra else 2.0)
    assert board.Scalars("eval/top1_error")[0].value == 12.5
    assert {"train/lr", "train/images_per_sec", "train/data_wait", "eval/loss"} <= set(
        board.Tags()["scalars"]
    )


def test_a_new_start_forgets_old_points_of_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, [train_row(step) for step in (1, 2, 3)])
    let_a_second_pass(tmp_path)
    write(tmp_path, [train_row(1, loss=1.0), train_row(2, loss=1.0)])
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(32, 1.0), (64, 1.0)]


def test_pictures_are_files_and_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = np.full((8, 12, 3), 200, np.uint8)
    records = Records(tmp_path, enabled=True, on_screen=False, total_examples=320)
    records.write_pictures({"found": picture}, eval_row(2))
    records.close()
    assert (np.asarray(Image.open(tmp_path / "pictures/step_000000002_found.png")) == picture).all()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [image.step for image in board.Images("eval/found")] == [64]


def test_parts_of_the_loss_stand_under_their_names(tmp_path):
    write(tmp_path, [train_row(1, parts={"loss_mask": 0.5})])
    assert lines(tmp_path)[0]["loss_mask"] == 0.5 and "parts" not in lines(tmp_path)[0]


def test_a_summary_says_where_its_numbers_come_from_and_is_replaced_whole(tmp_path):
    folder = RunDirectory(tmp_path)
    assert folder.summary() is None
    result = {
        "recipe": "x", "step": 3, "examples": 96, "seconds": 1.5, "world_size": 1, "engine": "ddp",
        "primary_metric": {"name": "top1_error"}, "top1_error": 2.5,
    }  # fmt: skip
    folder.write_summary(result | {"top1_error": 1.5, "more": 1}, write=True)
    written = folder.write_summary(result, write=True)
    assert folder.summary() == written and "more" not in written
    assert {"top1_error", "commit", "hardware", "versions"} <= set(written)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_only_the_writer_writes_a_summary(tmp_path):
    assert RunDirectory(tmp_path).write_summary({"top1_error": 1.5}, write=False)["top1_error"] == 1.5
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_replacing_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_a_quiet_run_writes_files_and_says_nothing(tmp_path, capsys):
    records = Records(tmp_path, enabled=True, on_screen=False, total_examples=320)
    records.write(train_row(1))
    records.close()
    assert len(lines(tmp_path)) == 1 and capsys.readouterr().out == ""
