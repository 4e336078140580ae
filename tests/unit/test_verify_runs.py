"""`lbtrain verify runs` sees how far runs of one recipe are apart, and rejects others."""

import json
import os
import re
import shutil

import pytest
import torch

from lbtrain.run import run
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.techniques.weight_average import KEY
from tests.run_rows import write_rows
from tests.short_run import FOUR_STEPS
from tools.study import publish
from tools.verify.__main__ import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run in one piece, one in micro-batches, and one that was stopped after two steps and resumed."""
    folder = tmp_path_factory.mktemp("runs")

    def made(name, **changes):
        run(FOUR_STEPS.vary(run_dir=str(folder / name), **changes), "digits", on_screen=False)
        return folder / name

    whole, pieces = made("whole"), made("pieces", micro_batch_size=8)
    resumed = shutil.copytree(whole, folder / "resumed")
    for path in (resumed / "summary.json", *resumed.glob("checkpoints/step_*4.pt*")):
        path.unlink()
    return whole, pieces, made(resumed.name)


def test_micro_batches_differ_by_rounding_and_a_resume_by_nothing(runs, tmp_path, capsys):
    assert main(["runs", *map(str, runs), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "pieces and whole agree: the weights are" in out
    assert "resumed and whole: weights and statistics are equal to the last bit" in out
    first, pieces, resumed = json.loads((tmp_path / "runs.json").read_text())["rows"]
    assert first["weights_distance"] == resumed["weights_distance"] == resumed["loss_difference"] == 0
    assert 0 < pieces["weights_distance"] < 1e-5 and 0 < pieces["statistics_distance"] < 1e-5
    assert 0 < pieces["loss_difference"] < 1e-5
    assert (pieces["engine"], pieces["ranks"], pieces["steps"]) == ("ddp", 1, 4)
    assert (tmp_path / "runs.png").stat().st_size > 5_000
    # As a published result it belongs to no recipe.
    assert publish.measured(json.loads((tmp_path / "runs.json").read_text()), "equality") == {}


def test_runs_that_are_not_evaluated_are_compared_without_a_score(runs, tmp_path, capsys):
    copies = [shutil.copytree(path, tmp_path / path.name) for path in runs[:2]]
    for path in copies:
        recipe = FOUR_STEPS.vary(data=dict(name="imagefolder", root="photos", validation_root="none"))
        (path / "recipe.yaml").write_text(recipe.to_yaml())
        summary = json.loads((path / "summary.json").read_text())
        del summary["top1_error"]
        (path / "summary.json").write_text(json.dumps(summary))
    assert main(["runs", *map(str, copies), "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out/runs.json").read_text())["rows"]
    assert [row["top1_error"] for row in rows] == [None, None]


def moved_from(run, folder, change):
    """A copy of a run whose newest checkpoint has been changed: `change` is given weights and extras."""
    copy = shutil.copytree(run, folder)
    kept = Checkpoints(copy, keep=2)
    newest = kept.newest()
    weights, extras = {**newest.state["model"]}, {**newest.extras}
    change(weights, extras)
    kept.save({**newest.state, "model": weights}, newest.progress, newest.recipe_yaml, extras)
    kept.wait()
    return copy


def distances(folder):
    return json.loads((folder / "runs.json").read_text())["rows"][1]


@pytest.mark.parametrize(("bound", "code"), [(torch.inf, 0), (-torch.inf, 1), (6.0, 1)])
def test_equal_infinities_are_no_distance(runs, tmp_path, bound, code):
    """Such as the bounds of timm's clamped convolutions."""
    copies = [
        moved_from(runs[0], tmp_path / name, lambda weights, _, value=value: weights.update(bound=value))
        for name, value in (("one", torch.tensor(torch.inf)), ("two", torch.tensor(bound)))
    ]
    assert main(["runs", *map(str, copies), "--out", str(tmp_path / "out")]) == code
    assert distances(tmp_path / "out")["weights_distance"] == (None if code else 0)


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_var"])
def test_the_average_of_the_weights_is_compared_too(tmp_path, capsys, name):
    """An evaluation, an export and timm take it before the weights."""
    averaged = tmp_path / "averaged"
    run(FOUR_STEPS.vary(run_dir=str(averaged), ema=dict(decay=0.9)), "digits", on_screen=False)

    def change(_, extras):
        extras[KEY] = {**extras[KEY], name: torch.zeros_like(extras[KEY][name])}

    other, out = moved_from(averaged, tmp_path / "other", change), tmp_path / "out"
    assert main(["runs", str(averaged), str(other), "--out", str(out)]) == 1
    assert (
        "do NOT agree" in capsys.readouterr().out
        and "average of the weights" in (out / "runs.md").read_text()
    )
    found = distances(out)
    assert found["weights_distance"] == found["statistics_distance"] == 0 < found["average_distance"]
    same = shutil.copytree(averaged, tmp_path / "same")
    assert main(["runs", str(averaged), str(same), "--out", str(out)]) == 0
    assert "weights, their average and statistics are equal to the last bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "fc.bias is missing, and was of shape (10,)"),
        ({"fc.bias": torch.zeros(5)}, "fc.bias is of shape (5,), and was of shape (10,)"),
        ({"fc.bias": torch.zeros(10), "more": torch.zeros(1)}, "more is of shape (1,), and was missing"),
    ],
)
def test_runs_of_two_models_are_rejected_with_the_first_difference(runs, tmp_path, capsys, tensors, said):
    def change(weights, _):
        del weights["fc.bias"]
        weights.update(tensors)

    other = moved_from(runs[0], tmp_path / "other", change)
    assert main(["runs", str(runs[0]), str(other), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_weights_are_compared_by_name_whatever_their_order(runs, tmp_path):
    def change(weights, _):
        for name in reversed(list(weights)):
            weights[name] = weights.pop(name)

    other = moved_from(runs[0], tmp_path / "other", change)
    assert main(["runs", str(runs[0]), str(other), "--out", str(tmp_path / "out")]) == 0
    assert distances(tmp_path / "out")["weights_distance"] == 0


@pytest.mark.parametrize("old", [1, 2])
def test_runs_of_an_older_version_are_compared(runs, tmp_path, old):
    """Their rows do not say how many images they are the average of."""
    copies = [shutil.copytree(runs[0], tmp_path / name) for name in ("one", "two")]
    for path in copies[:old]:
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            row.pop("averaged_images", None)
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["runs", *map(str, copies), "--out", str(tmp_path / "out")]) == 0
    assert distances(tmp_path / "out")["loss_difference"] == 0


@pytest.mark.parametrize("value", [1.0, float("nan")])
@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_var"])
def test_other_weights_do_not_agree(runs, tmp_path, capsys, name, value):
    def change(weights, _):
        weights[name] = torch.full_like(weights[name], value)

    moved = moved_from(runs[0], tmp_path / "moved", change)
    assert main(["runs", str(runs[0]), str(moved), "--out", str(tmp_path / "out")]) == 1
    assert "do NOT agree" in capsys.readouterr().out
    row = distances(tmp_path / "out")
    assert None in (row["weights_distance"], row["statistics_distance"]) or value == 1


def test_the_row_after_a_restart_is_not_compared(runs, tmp_path):
    """It is the average of fewer steps."""
    resumed, words = shutil.copytree(runs[0], tmp_path / "resumed"), ["--out", str(tmp_path / "out")]
    rows = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    partial = next(row for row in rows if (row["kind"], row["step"]) == ("train", 3))
    assert partial["averaged_images"] == 32
    partial |= {"averaged_images": 16, "loss": 100.0}
    write_rows(resumed, rows)
    assert main(["runs", str(runs[0]), str(resumed), *words]) == 0
    assert json.loads((tmp_path / "out/runs.json").read_text())["rows"][1]["loss_difference"] == 0


@pytest.mark.parametrize("full", [False, True])
def test_a_folder_that_cannot_be_written_is_one_line(runs, tmp_path, capsys, full):
    out = tmp_path / "out"
    if full:
        out.mkdir()
        (out / "runs.json").symlink_to("/dev/full")
    else:
        out.touch()
    assert main(["runs", *map(str, runs[:2]), "--out", str(out)]) == 7
    said = "No space left on device" if full else f"{out}: File exists"
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_folder_whose_name_is_no_utf_8_is_compared_and_written(runs, tmp_path, capsys):
    copy, out = (tmp_path / os.fsdecode(name) for name in (b"caf\xe9", b"\xfcber"))
    shutil.copytree(runs[0], copy)
    assert main(["runs", str(runs[1]), str(copy), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "caf\\xe9" in printed and "\\xfcber/runs.html" in printed
    assert "caf\\xe9" in (out / "runs.md").read_text() and (out / "runs.html").is_file()


def test_the_allowed_distance_is_an_option(runs, tmp_path):
    words = ["runs", *map(str, runs[:2]), "--out", str(tmp_path)]
    assert [main([*words, "--within", within]) for within in ("1e-12", "1e-4")] == [1, 0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(seed=1), "another recipe than .*seed was 0, is 1"),
        (dict(batch_size=64), "batch_size was 32, is 64"),
        (dict(log_every="3it"), ""),
        (dict(log_every="1000it"), "logged no average of the same steps as .*: use one log_every"),
    ],
)
def test_only_runs_of_one_recipe_are_compared(runs, tmp_path, capsys, changes, said):
    other = tmp_path / "other"
    run(FOUR_STEPS.vary(run_dir=str(other), **changes), "digits", on_screen=False)
    code = main(["runs", str(runs[0]), str(other), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == (2 if said else 0)
    assert re.search(said, error)


def test_runs_that_have_not_ended_alike_are_rejected(runs, tmp_path, capsys):
    stopped = shutil.copytree(runs[0], tmp_path / "stopped")
    for path in stopped.glob("checkpoints/step_*4.pt*"):
        path.unlink()
    summary = json.loads((stopped / "summary.json").read_text())
    (stopped / "summary.json").write_text(json.dumps({**summary, "step": 2}))
    assert main(["runs", str(runs[0]), str(stopped)]) == 2
    assert "stopped at step 2): compare runs of one length" in capsys.readouterr().err
    (stopped / "summary.json").unlink()
    assert main(["runs", str(runs[0]), str(stopped)]) == 2
    assert "stopped has not ended: the same command resumes it" in capsys.readouterr().err
    moved = shutil.copytree(runs[0], tmp_path / "moved")
    write_rows(moved, [{"kind": "train", "step": 3, "averaged_images": 64}])
    assert main(["runs", str(runs[0]), str(moved)]) == 2
    assert "logged no average of the same steps" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_an_earlier_one_is_not_the_end(runs, tmp_path, capsys):
    damaged = [shutil.copytree(runs[0], tmp_path / name) for name in ("one", "two")]
    for path in damaged:
        (path / "checkpoints/step_000000004.pt").write_bytes(b"")
    for first in (runs[0], damaged[0]):
        assert main(["runs", str(first), str(damaged[1]), "--out", str(tmp_path / "out")]) == 2
        *skipped, error = capsys.readouterr().err.splitlines()
        assert "step_000000004.pt is damaged" in skipped[0]
        assert "ended at step 4, and its newest good checkpoint is of step 2" in error


def test_one_run_and_a_folder_without_one_are_rejected(runs, tmp_path, capsys):
    for folders in ([runs[0]], [runs[0], runs[1], runs[0]]):
        assert main(["runs", *map(str, folders)]) == 2
        assert "name two or more different runs" in capsys.readouterr().err
    assert main(["runs", str(runs[0]), str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_a_run_with_a_new_leg_is_no_run_of_its_recipe(runs, tmp_path, capsys):
    longer = shutil.copytree(runs[0], tmp_path / "longer")
    run(FOUR_STEPS.vary(run_dir=str(longer), duration="6it", resume="new_leg"), "digits", on_screen=False)
    assert main(["runs", str(longer), str(shutil.copytree(longer, tmp_path / "copy"))]) == 2
    assert "no run of its recipe alone: it continued from step 4" in capsys.readouterr().err
