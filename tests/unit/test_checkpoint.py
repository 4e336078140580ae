"""Checkpoints: whole or passed over, never half; plain files that timm reads."""

import hashlib
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

import lbtrain.nn  # noqa: F401  registers its models with timm
from lbtrain.errors import RecipeError, SaveFailed
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.progress import Progress


def state(value: float = 0.0) -> dict:
    return {
        "model": {"weight": torch.full((3, 2), value), "count": torch.tensor(4)},
        "optimizer": {
            "weight": {"momentum_buffer": torch.full((3, 2), value + 0.5), "step": torch.tensor(7.0)}
        },
        "loss_scale": 1024.0,
        "loss_scale_steps": 1999,
    }


def save(run_dir: Path, *steps: int, keep: int = 9) -> Checkpoints:
    checkpoints = Checkpoints(run_dir, keep=keep)
    for step in steps:
        checkpoints.save(state(step), Progress(examples=32 * step, step=step, skipped_steps=1), "seed: 0\n")
    checkpoints.wait()
    return checkpoints


def newest(checkpoints: Checkpoints) -> tuple[dict, Progress, list[str]]:
    found = checkpoints.newest()
    return found.state, found.progress, list(found.skipped)


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_what_was_saved_is_what_is_loaded(tmp_path):
    found, progress, warnings = newest(save(tmp_path, 5))
    assert (progress, warnings) == (Progress(160, 5, 1), [])
    expected = state(5)
    assert (found["loss_scale"], found["loss_scale_steps"]) == (1024.0, 1999)
    torch.testing.assert_close(found["model"], expected["model"], rtol=0, atol=0)
    torch.testing.assert_close(found["optimizer"], expected["optimizer"], rtol=0, atol=0)
    assert all(tensor.dtype == expected["model"][name].dtype for name, tensor in found["model"].items())


def test_the_rows_before_a_checkpoint_are_on_the_disk_before_it(tmp_path, monkeypatch):
    """Once per checkpoint."""
    synced, fsync = [], os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    (tmp_path / "metrics.jsonl").write_text("{}\n")
    monkeypatch.setattr("os.fsync", note)
    save(tmp_path, 5)
    assert synced[:2] == ["metrics.jsonl", "step_000000005.new"] and synced.count("metrics.jsonl") == 1


def test_nothing_saved_is_no_error(tmp_path):
    assert Checkpoints(tmp_path, keep=1).newest() is None
    (tmp_path / "checkpoints").mkdir()
    assert Checkpoints(tmp_path, keep=1).newest() is None


def test_the_newest_is_by_step_also_beyond_nine_digits(tmp_path):
    checkpoints = save(tmp_path, 9, 10, 999_999_999)
    assert newest(checkpoints)[1].step == 999_999_999
    checkpoints.save(state(), Progress(1, 1_000_000_000), "")
    checkpoints.wait()
    assert newest(checkpoints)[1].step == 1_000_000_000


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [3, 4]), (3, [2, 3, 4]), (9, [1, 2, 3, 4])])
def test_the_newest_stay(tmp_path, keep, left):
    save(tmp_path, 1, 2, 3, 4, keep=keep)
    assert names(tmp_path) == sorted(
        f"step_{step:09}.{suffix}" for step in left for suffix in ("pt", "sha256")
    )


def test_saving_the_same_step_again_replaces_it(tmp_path):
    checkpoints = save(tmp_path, 3)
    checkpoints.save(state(8.0), Progress(96, 3), "")
    checkpoints.wait()
    assert float(newest(checkpoints)[0]["model"]["weight"][0, 0]) == 8.0
    assert len(names(tmp_path)) == 2


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_checksum(path: Path) -> None:
    path.with_suffix(".sha256").unlink()


def wrong_checksum(path: Path) -> None:
    path.with_suffix(".sha256").write_text("0" * 64 + "\n")


@pytest.mark.parametrize("damage", [flip_a_byte, cut_off, empty, without_checksum, wrong_checksum])
def test_a_damaged_one_is_passed_over_and_said(tmp_path, damage):
    checkpoints = save(tmp_path, 1, 2)
    last = tmp_path / "checkpoints/step_000000002.pt"
    damage(last)
    found, progress, warnings = newest(checkpoints)
    assert progress.step == 1 and float(found["model"]["weight"][0, 0]) == 1.0
    assert warnings == [f"{last} is damaged (its checksum differs or is not beside it): skipped"]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_one_that_was_passed_over_takes_no_place_of_a_good_one(tmp_path, monkeypatch, keep):
    save(tmp_path, 90, 100, 110)
    for step in (100, 110):
        flip_a_byte(tmp_path / f"checkpoints/step_{step:09}.pt")
    checkpoints = Checkpoints(tmp_path, keep=keep)
    assert newest(checkpoints)[1].step == 90
    with (
        monkeypatch.context() as patched,
        pytest.raises(SaveFailed, match=r"step_000000090\.pt is whole: the same command goes on from it"),
    ):
        patched.setattr(torch, "save", lambda *_: pickle.dumps(lambda: 0))
        checkpoints.save(state(95), Progress(32 * 95, 95), "seed: 0\n", wait=True)
    for step, there in ((95, [90, 95, 100, 110]), (105, [95, 105, 110]), (115, [105, 115])):
        checkpoints.save(state(step), Progress(32 * step, step), "seed: 0\n")
        checkpoints.wait()
        expected = there if keep == 2 else there[1:]  # the first of each is the good one before
        assert [name for name in names(tmp_path) if name.endswith(".pt")] == [
            f"step_{number:09}.pt" for number in expected
        ]
        assert newest(checkpoints)[1].step == step


def tamper(path: Path, change: Callable[[dict], object]) -> None:
    """Changes what a checkpoint holds, and gives it the checksum of that."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    path.with_suffix(".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest() + "\n")


def test_one_from_before_the_loss_scale_kept_its_steps_goes_on_from_0(tmp_path):
    checkpoints = save(tmp_path, 1)
    tamper(tmp_path / "checkpoints/step_000000001.pt", lambda content: content.pop("loss_scale_steps"))
    found = checkpoints.newest()
    assert (found.state["loss_scale"], found.state["loss_scale_steps"], found.extras) == (1024.0, 0, {})


def test_one_from_before_the_time_was_kept_counts_from_0(tmp_path):
    checkpoints = save(tmp_path, 1)
    assert checkpoints.newest().seconds > 0
    tamper(tmp_path / "checkpoints/step_000000001.pt", lambda content: content.pop("seconds"))
    found = checkpoints.newest()
    assert (found.seconds, found.extras) == (0.0, {})


MODEL = torch.nn.Linear(3, 2)
WEIGHT = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda content: content.pop("optimizer"), "it lacks optimizer"),
        (
            lambda content: content.update(state_dict=[1.0]),
            "its weights and optimizer states are not tensors by name",
        ),
        (
            lambda content: content["optimizer"].update(weight=WEIGHT),
            "its weights and optimizer states are not tensors by name",
        ),
        (lambda content: content.update(loss_scale=float("nan")), "loss_scale=nan is not a positive number"),
        (lambda content: content.update(loss_scale_steps=-1), "loss_scale_steps=-1 is not a number of steps"),
        (lambda content: content.update(seconds=-1.0), "seconds=-1.0 is not a time"),
        (
            lambda content: content.update(best={"loss": "1"}),
            "best={'loss': '1'} is not a value by the name of its metric",
        ),
        (
            lambda content: content["progress"].update(examples=-1),
            "progress={'examples': -1.* is not a position in a run",
        ),
        (
            lambda content: content["progress"].update(epoch=1),
            "progress={.*'epoch': 1} is not a position in a run",
        ),
        (
            lambda content: content["state_dict"].update(w=content["state_dict"].pop("weight")),
            r"it lacks weight \(1 such names\)",
        ),
        (
            lambda content: content["state_dict"].update(w=WEIGHT),
            r"it has, and the model has not, w \(1 such names\)",
        ),
        (
            lambda content: content["state_dict"].update(weight=WEIGHT.T),
            r"weight has shape \(3, 2\) of torch.float32 in it, and \(2, 3\) of torch.float32 in this run",
        ),
        (
            lambda content: content["state_dict"].update(weight=WEIGHT.double()),
            r"weight has shape \(2, 3\) of torch.float64 in it, and \(2, 3\) of torch.float32 in this run",
        ),
        (
            lambda content: content["optimizer"].update(w={}),
            "it has optimizer states of w, which is not a parameter of the model",
        ),
        (
            lambda content: content["optimizer"].update(weight={"momentum_buffer": WEIGHT[:1]}),
            r"weight, momentum_buffer has shape \(1, 3\) of torch.float32 in it, and \(2, 3\)",
        ),
    ],
)
def test_one_that_was_changed_and_given_a_checksum_is_rejected_with_the_reason(tmp_path, change, why):
    checkpoints = Checkpoints(tmp_path, keep=1)
    states = {"weight": {"momentum_buffer": WEIGHT, "step": torch.tensor(1.0)}}
    checkpoints.save(
        {"model": MODEL.state_dict(), "optimizer": states, "loss_scale": 1.0, "loss_scale_steps": 0},
        Progress(32, 1),
        "",
    )
    checkpoints.wait()
    checkpoints.newest().check_fits(MODEL)
    tamper(tmp_path / "checkpoints/step_000000001.pt", change)
    with pytest.raises(
        RecipeError,
        match=rf"step_000000001\.pt is not a checkpoint of this run.*: {why}.*Remove it.*another run_dir",
    ):
        checkpoints.newest().check_fits(MODEL)


def test_what_a_technique_cannot_take_back_is_rejected(tmp_path):
    checkpoints = save(tmp_path, 1)
    with pytest.raises(
        RecipeError,
        match=r"step_000000001\.pt is not a checkpoint of this run.*a technique.*KeyError: 'absa'.*Remove it",
    ):
        checkpoints.newest().restore_extras(lambda state: state["absa"])


def test_a_file_that_is_no_checkpoint_is_rejected(tmp_path):
    path = save(tmp_path, 1).folder / "step_000000001.pt"
    path.write_text("weights")
    path.with_suffix(".sha256").write_text(hashlib.sha256(b"weights").hexdigest() + "\n")
    with pytest.raises(
        RecipeError, match=r"step_000000001\.pt is not a checkpoint of this run.*it cannot be read"
    ):
        Checkpoints(tmp_path, keep=1).newest()


def test_an_error_without_words_is_named_by_its_kind(tmp_path, monkeypatch):
    checkpoints = save(tmp_path, 1)

    def fail(*args, **kwargs):
        raise EOFError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(RecipeError, match=r"it cannot be read \(EOFError\)"):
        checkpoints.newest()


def test_all_damaged_is_rejected_and_nothing_is_deleted(tmp_path):
    checkpoints = save(tmp_path, 1, 2)
    for step in (1, 2):
        flip_a_byte(tmp_path / f"checkpoints/step_{step:09}.pt")
    before = names(tmp_path)
    with pytest.raises(
        RecipeError,
        match=r"step_000000002\.pt is damaged.*step_000000001\.pt is damaged.*choose another run directory",
    ):
        checkpoints.newest()
    assert names(tmp_path) == before


def test_a_crash_while_writing_leaves_the_older_one(tmp_path, monkeypatch):
    checkpoints = save(tmp_path, 1)

    def crash(content, file) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(
        SaveFailed, match=r"step 2 could not be written to .*no space left.*step_000000001\.pt is whole"
    ):
        checkpoints.save(state(2), Progress(64, 2), "", wait=True)
    assert names(tmp_path) == ["step_000000001.pt", "step_000000001.sha256"]
    monkeypatch.undo()
    assert newest(checkpoints)[1].step == 1
    checkpoints.save(state(2), Progress(64, 2), "")
    checkpoints.wait()
    assert newest(checkpoints)[1].step == 2


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (MemoryError(), "MemoryError"),
        (pickle.PicklingError("no such thing"), "no such thing"),
        (TypeError("odd"), "odd"),
    ],
)
def test_whatever_stops_the_writer_is_said(tmp_path, monkeypatch, error, why):
    checkpoints = save(tmp_path, 1)

    def fail(content, file) -> None:
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(
        SaveFailed, match=rf"step 2 could not be written to .*\({why}\); .*step_000000001\.pt is whole"
    ):
        checkpoints.save(state(2), Progress(64, 2), "", wait=True)
    assert names(tmp_path) == ["step_000000001.pt", "step_000000001.sha256"]


def test_an_unfinished_file_that_cannot_be_removed_hides_no_failure(tmp_path, monkeypatch):
    checkpoints = save(tmp_path, 1)

    def fail(*_, **__) -> None:
        monkeypatch.setattr(Path, "unlink", fail)
        raise OSError("read-only file system")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(SaveFailed, match=r"step 2 could not be written to .*\(read-only file system\)"):
        checkpoints.save(state(2), Progress(64, 2), "", wait=True)


def test_a_save_that_fails_is_told_of_and_the_next_one_is_tried(tmp_path, monkeypatch, capsys):
    checkpoints = save(tmp_path, 1)

    def fail(*_) -> None:
        raise OSError("input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", fail)
        checkpoints.save(state(2), Progress(64, 2), "")
        checkpoints.wait()
    assert re.search(
        r"^the checkpoint of step 2 could not be written .*\(input/output error\).*Training goes on",
        capsys.readouterr().err,
    )
    checkpoints.save(state(3), Progress(96, 3), "")
    assert newest(checkpoints)[1].step == 3

    monkeypatch.setattr(torch, "save", fail)
    checkpoints.save(state(4), Progress(128, 4), "")
    with pytest.raises(SaveFailed, match="the checkpoint of step 5 could not be written"):
        checkpoints.save(state(5), Progress(160, 5), "")


@pytest.mark.parametrize(("next_error", "kept"), [(30.0, 2), (10.0, 3)])
def test_a_best_one_that_failed_is_written_with_the_next_unless_that_is_better(
    tmp_path, monkeypatch, next_error, kept
):
    checkpoints = Checkpoints(tmp_path, keep=1, best="top1_error")

    def evaluate_and_save(step: int, error: float) -> None:
        improved = checkpoints.best.improved({"top1_error": error})
        checkpoints.save(state(step), Progress(32 * step, step), "", is_best=improved)
        checkpoints.wait()

    def fail(*_) -> None:
        raise OSError("input/output error")

    evaluate_and_save(1, 40.0)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", fail)
        evaluate_and_save(2, 20.0)
    evaluate_and_save(3, next_error)
    best = checkpoints.load(tmp_path / "checkpoints" / "best.pt")
    assert (best.progress.step, best.best) == (kept, {"top1_error": min(20.0, next_error)})
    assert newest(checkpoints)[1].step == 3
    assert "step_000000002.pt" not in names(tmp_path)


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    checkpoints = save(tmp_path, 1, keep=1)
    for name in ("step_best.pt", "step_000000009.pt.bak", "notes.txt", "step_7.pt"):
        (tmp_path / "checkpoints" / name).write_text("mine")
    checkpoints.save(state(), Progress(64, 2), "")
    checkpoints.wait()
    assert newest(checkpoints)[1].step == 2
    assert {"step_best.pt", "step_000000009.pt.bak", "notes.txt", "step_7.pt"} <= set(names(tmp_path))


def test_a_file_holds_data_and_no_code(tmp_path):
    path = save(tmp_path, 1).folder / "step_000000001.pt"
    content = torch.load(path, weights_only=True)
    assert sorted(content) == [
        "fingerprint",
        "loss_scale",
        "loss_scale_steps",
        "optimizer",
        "progress",
        "recipe",
        "seconds",
        "state_dict",
    ]
    assert content["recipe"] == "seed: 0\n"


@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet18"])
def test_timm_loads_a_checkpoint_by_its_path(tmp_path, name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, in_chans=1).eval()
    content = {"model": model.state_dict(), "optimizer": {}, "loss_scale": 1.0, "loss_scale_steps": 0}
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(content, Progress(1, 1), "")
    checkpoints.wait()
    path = tmp_path / "checkpoints/step_000000001.pt"
    torch.manual_seed(1)
    loaded = timm.create_model(name, num_classes=3, in_chans=1, checkpoint_path=str(path)).eval()
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(loaded(images), model(images))
