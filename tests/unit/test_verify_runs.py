"""`lbtrain verify runs` sees how far runs of one recipe are apart, and rejects others."""

import json
import re
import shutil

import pytest
import torch

from lbtrain import Recipe
from lbtrain.run import run
from lbtrain.runs.checkpoint import Checkpoints
from tools.study import publish
from tools.verify.__main__ import main

RECIPE = Recipe().vary(
    batch_size=32,
    bn_batch_size=8,
    duration="4it",
    model=dict(name="cifar_resnet8"),
    data=dict(name="digits"),
    schedule=dict(base_lr=0.05, base_batch_size=32, warmup="0it", decay="none"),
    evaluate_every="2it",
    log_every="1it",
    checkpoint=dict(every="2it"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run in one piece, one in micro-batches, and one that was stopped after two steps and resumed."""
    folder = tmp_path_factory.mktemp("runs")

    def made(name, **changes):
        run(RECIPE.vary(run_dir=str(folder / name), **changes), "digits", on_screen=False)
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
    assert "resumed and whole: the weights are equal to the last bit" in out
    first, pieces, resumed = json.loads((tmp_path / "runs.json").read_text())["rows"]
    assert first["distance"] == resumed["distance"] == resumed["loss_difference"] == 0
    assert 0 < pieces["distance"] < 1e-5 and 0 < pieces["loss_difference"] < 1e-5
    assert (pieces["engine"], pieces["ranks"], pieces["steps"]) == ("ddp", 1, 4)
    assert (tmp_path / "runs.png").stat().st_size > 5_000
    # As a published result it belongs to no recipe.
    assert publish.measured(json.loads((tmp_path / "runs.json").read_text()), "equality") == {}


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_other_weights_do_not_agree(runs, tmp_path, capsys, value):
    moved = shutil.copytree(runs[0], tmp_path / "moved")
    kept = Checkpoints(moved, keep=2)
    newest = kept.newest()
    weights = {**newest.state["model"]}
    name = next(iter(weights))
    weights[name] = torch.full_like(weights[name], value)
    kept.save({**newest.state, "model": weights}, newest.progress, newest.recipe_yaml)
    kept.wait()
    assert main(["runs", str(runs[0]), str(moved), "--out", str(tmp_path / "out")]) == 1
    assert "do NOT agree" in capsys.readouterr().out


def test_the_allowed_distance_is_an_option(runs, tmp_path):
    words = ["runs", *map(str, runs[:2]), "--out", str(tmp_path)]
    assert [main([*words, "--within", within]) for within in ("1e-12", "1e-4")] == [1, 0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(seed=1), "another recipe than .*seed was 0, is 1"),
        (dict(batch_size=64), "batch_size was 32, is 64"),
        (dict(log_every="3it"), ""),
        (dict(log_every="1000it", evaluate_every="4it"), ""),
    ],
)
def test_only_runs_of_one_recipe_are_compared(runs, tmp_path, capsys, changes, said):
    other = tmp_path / "other"
    run(RECIPE.vary(run_dir=str(other), **changes), "digits", on_screen=False)
    code = main(["runs", str(runs[0]), str(other), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == (2 if said else 0)
    assert re.search(said, error)


def test_runs_that_have_not_ended_alike_are_rejected(runs, tmp_path, capsys):
    stopped = shutil.copytree(runs[0], tmp_path / "stopped")
    for path in stopped.glob("checkpoints/step_*4.pt*"):
        path.unlink()
    assert main(["runs", str(runs[0]), str(stopped)]) == 2
    assert "stopped at step 2): let all runs end" in capsys.readouterr().err
    rows = (runs[0] / "metrics.jsonl").read_text().splitlines()
    (stopped / "metrics.jsonl").write_text("\n".join(row for row in rows if '"eval"' not in row) + "\n")
    assert main(["runs", str(runs[0]), str(stopped)]) == 2
    assert "has no evaluation: let it end" in capsys.readouterr().err


def test_one_run_and_a_folder_without_one_are_rejected(runs, tmp_path, capsys):
    assert main(["runs", str(runs[0])]) == 2
    assert "name two runs or more" in capsys.readouterr().err
    assert main(["runs", str(runs[0]), str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_a_run_with_a_new_leg_is_no_run_of_its_recipe(runs, tmp_path, capsys):
    longer = shutil.copytree(runs[0], tmp_path / "longer")
    run(RECIPE.vary(run_dir=str(longer), duration="6it", resume="new_leg"), "digits", on_screen=False)
    assert main(["runs", str(longer), str(longer)]) == 2
    assert "no run of its recipe alone: it continued from step 4" in capsys.readouterr().err
