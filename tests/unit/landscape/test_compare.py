"""Sharpness, spectrum and the line between two runs, from their directories; a command that was stopped goes
on.
"""

import gc
import json
import shutil
import weakref
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lbtrain.analysis.sharpness import Sharpness
from lbtrain.errors import RecipeError
from lbtrain.nn import GhostBatchNorm2d
from lbtrain.runs import loading
from lbtrain.tasks import create_task
from lbtrain.tasks.classification import Classification
from tests.run_rows import write_rows
from tests.tiny_detection import tiny
from tests.unit.landscape.untrained import save_initial, write_run
from tools.landscape import measures
from tools.landscape.__main__ import main
from tools.landscape.compare import _converged, _table, fit_log, interpolated
from tools.landscape.compare_chart import _draw_spectra
from tools.landscape.loss import LossOptions
from tools.landscape.runs import Run
from tools.landscape.training import _draw


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "small", seed=0), write_run(folder / "large", seed=1, batch_size=720)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in {
        "ITERATIONS": 1,
        "EIGENVALUES": 2,
        "EIGENVALUE_STEPS": 3,
        "TRACE_SAMPLES": 2,
        "DIRECTIONS": 5,
        "PROBES": 1,
        "DENSITY_STEPS": 3,
    }.items():
        monkeypatch.setattr(measures, name, value)
    monkeypatch.setattr("tools.landscape.compare.ALPHAS", [0.0, 0.5, 1.0])


ORIGIN = {"commit": "abc1234", "hardware": "2 cores", "versions": {"torch": "2.5"}}
OPTIONS = ["--examples", "16", "--micro-batch", "16"]


def test_two_runs_side_by_side(runs, tmp_path, capsys):
    metric = {"primary_metric": {"name": "top1_error", "label": "top-1 error"}}
    for run, error in zip(runs, (1.25, 3.5), strict=True):
        (run / "summary.json").write_text(json.dumps({**metric, **ORIGIN, "top1_error": error}))
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "page"), *OPTIONS]) == 0
    found = json.loads((tmp_path / "page" / "compare.json").read_text())
    assert [point["alpha"] for point in found["line"]] == [0, 0.5, 1]
    box = found["sharpness"][0]["box 0.001, full space"]
    assert found["line"][0]["train_loss"] == pytest.approx(box["base"], rel=1e-5), (
        "the line starts at the first run"
    )
    page = (tmp_path / "page" / "compare.html").read_text()
    assert f'>training loss</td><td class="r">{box["base"]:.4g}</td>' in page
    assert "far from where the other got" not in page
    assert '>top-1 error</td><td class="r">1.25</td><td class="r">3.50</td>' in page
    assert found["fits"][0]["slope"] == pytest.approx(1) and found["fits"][0]["explained"] == pytest.approx(1)
    for name in ("line.png", "spectrum.png", "distance.png", "compare.html"):
        assert (tmp_path / "page" / name).stat().st_size > 5000
    assert "compare.html" in capsys.readouterr().out


def test_a_run_that_got_nowhere_is_not_called_flat_without_a_word():
    said = _converged(["a", "b"], [0.1, 2.1])
    assert said.startswith("training losses 0.1 and 2.1: b is far from where the other got")
    assert _converged(["a", "b"], [0.1, 0.12]) == "training losses 0.1 and 0.12"


def test_a_second_time_nothing_is_measured(runs, monkeypatch, capsys):
    assert main(["sharpness", str(runs[0]), *OPTIONS]) == 0
    first = capsys.readouterr().out.splitlines()[-9:]
    monkeypatch.setattr("tools.landscape.loss.TrainingLoss.at", None)
    assert main(["sharpness", str(runs[0]), *OPTIONS]) == 0
    assert capsys.readouterr().out.splitlines()[-9:] == first and "box 0.001, full space" in first[0]


def test_seeds_of_a_recipe_have_a_mean_and_a_deviation(tmp_path, capsys):
    """As Tables 3 and 4 of Keskar et al. 2017 have them; another recipe stands beside them."""
    small = [write_run(tmp_path / "small" / f"seed{seed}", seed=seed) for seed in (0, 1)]
    large = write_run(tmp_path / "large", seed=1, batch_size=720)
    for run in (*small, large):
        (run / "summary.json").write_text(json.dumps(ORIGIN))
    words = ["sharpness", *map(str, [*small, large]), *OPTIONS]
    assert main(words) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert rows[0][2:4] == ["small", "large"] and rows[2][1:4] == ["batch size", "64", "720"]
    assert rows[3][1:4] == ["runs", "2", "1"]

    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    together, alone = json.loads((tmp_path / "out" / "sharpness.json").read_text())["rows"]
    first, second = together["measures"]["box 0.001, full space, from x"]
    assert first != second and together["mean"] == pytest.approx((first + second) / 2)
    assert together["std"] == pytest.approx(abs(first - second) / 2**0.5)
    assert (alone["arm"], alone["n"], alone["std"]) == ("large", 1, 0)
    assert f"large: {alone['mean'] - together['mean']:+.3g} against small" in said
    assert "commit abc1234" in (tmp_path / "out" / "sharpness.md").read_text()
    assert (tmp_path / "out" / "sharpness.png").stat().st_size > 5000
    assert (tmp_path / "out" / "sharpness.html").exists()


def test_two_recipes_whose_runs_are_in_one_folder_have_two_names(tmp_path, capsys):
    runs = [write_run(tmp_path / f"a{seed}", seed=seed) for seed in (0, 1)]
    runs += [write_run(tmp_path / f"b{seed}", seed=seed, batch_size=720) for seed in (0, 1)]
    for run in runs:
        (run / "summary.json").write_text(json.dumps(ORIGIN))
    assert main(["sharpness", *map(str, runs), *OPTIONS]) == 0
    head = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in head.split("|")[2:4]] == ["a0", "b0"]


def test_of_several_runs_each_has_ended_and_counts_once(runs, tmp_path, capsys):
    ended = write_run(tmp_path / "ended", seed=0)
    again = write_run(tmp_path / "again", seed=0)
    open_ended = write_run(tmp_path / "open", seed=1)
    for run in (ended, again):
        (run / "summary.json").write_text(json.dumps(ORIGIN))
    for others, said in (
        ([open_ended], "has not finished (no summary.json)"),
        ([ended], "is named twice"),
        ([again], "are of one recipe and one seed"),
    ):
        assert main(["sharpness", str(ended), *map(str, others), *OPTIONS]) == 2
        assert said in capsys.readouterr().err


def test_what_was_kept_with_another_meaning_is_measured_anew(runs, monkeypatch, capsys):
    words = ["sharpness", str(runs[1]), *OPTIONS]
    assert main(words) == 0
    monkeypatch.setattr("tools.landscape.cache.MEANING", -1)
    measured = []
    monkeypatch.setattr(
        measures, "box_sharpness", lambda *_, **__: measured.append(1) or Sharpness(1.0, 1.0, 1.0, 1)
    )
    assert main(words) == main(words) == 0
    assert len(measured) == 8, "each box once"


def test_a_run_that_was_trained_anew_is_measured_anew(runs, tmp_path, capsys):
    small = shutil.copytree(runs[0], tmp_path / "small")
    compared = ["compare", str(small), str(runs[1]), "--out", str(tmp_path / "page"), *OPTIONS]
    starts = []
    for again in (False, True):
        if again:
            shutil.rmtree(small / "checkpoints")
            shutil.copytree(write_run(tmp_path / "again", seed=2) / "checkpoints", small / "checkpoints")
        assert main(compared) == 0
        found = json.loads((tmp_path / "page" / "compare.json").read_text())
        assert found["line"][0]["train_loss"] == pytest.approx(
            found["sharpness"][0]["box 0.001, full space"]["base"], rel=1e-5
        )
        starts.append(found["line"][0]["train_loss"])
    assert starts[0] != pytest.approx(starts[1], rel=1e-3)


def test_a_pass_holds_whole_ghost_batches(tmp_path, capsys):
    """Also by default, where they are larger than the default, or do not divide it."""
    path = write_run(tmp_path / "run", seed=0, batch_size=144, ghost=72)
    assert main(["sharpness", str(path), "--examples", "72"]) == 0
    cached = next(path.glob("landscape/*.json"))
    assert json.loads(cached.read_text())["settings"]["micro_batch"] == 72
    capsys.readouterr()
    assert main(["sharpness", str(path), *OPTIONS]) == 2
    assert "--micro-batch 16 holds no whole number of the ghost batches of 72 images" in (
        said := capsys.readouterr().err
    )
    assert "--micro-batch 72 does" in said
    assert main(["sharpness", str(path), "--examples", "100"]) == 2
    assert "use --examples 144" in capsys.readouterr().err
    assert main(["sharpness", str(path), "--batch-norm", "eval", "--examples", "64"]) == 0


def test_a_stopped_command_keeps_what_was_finished(runs, monkeypatch, capsys):
    monkeypatch.setattr(
        measures, "spectral_density", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    options = ["hessian", str(runs[1]), "--examples", "32", "--micro-batch", "16"]
    assert main(options) == 130
    assert "the same command continues from there" in capsys.readouterr().err
    assert (
        json.loads((runs[1] / "landscape" / "top_eigenvalues.json").read_text())["settings"]["examples"] == 32
    )
    monkeypatch.undo()


@pytest.mark.parametrize("option", ["--examples", "--micro-batch"])
@pytest.mark.parametrize("number", ["0", "-512", "1.5"])
def test_examples_are_counted_from_1(runs, capsys, option, number):
    with pytest.raises(SystemExit) as exit_:
        main(["hessian", str(runs[0]), f"{option}={number}"])
    assert exit_.value.code == 2
    assert f"argument {option}: '{number}' is not a whole number above 0" in capsys.readouterr().err


def test_examples_that_no_micro_batches_hold_are_rejected(runs, capsys):
    assert main(["hessian", str(runs[0]), "--examples", "100", "--micro-batch", "16"]) == 2
    assert "--examples 100 is not a whole number of micro-batches of 16" in capsys.readouterr().err


def test_all_runs_are_checked_before_the_first_is_measured(runs, tmp_path, monkeypatch, capsys):
    """And the numbers that are named fit all of them."""
    path = write_run(tmp_path / "run", seed=1, batch_size=720, ghost=720)
    for command in ("compare", "sharpness"):
        assert main([command, str(runs[0]), str(path), "--examples", "512"]) == 2
        assert "of 64 and of 720 on each of 1 ranks: use --examples 2880" in capsys.readouterr().err
        assert main([command, str(runs[0]), str(path), "--micro-batch", "16"]) == 2
        assert "--micro-batch 720 does" in capsys.readouterr().err
    options, ghosts = LossOptions(2880, 0, "batch"), {runs[0]: 8, path: 720}
    options.check(ghosts, 1)
    with pytest.raises(RecipeError, match="--micro-batch 144 does"):
        replace(options, micro_batch=100).check({runs[0]: 16, path: 72}, 2)
    replace(options, micro_batch=144).check({runs[0]: 16, path: 72}, 2)
    shutil.rmtree(path / "checkpoints")
    monkeypatch.setattr(measures, "box_sharpness", None)
    for command in ("compare", "sharpness"):
        assert main([command, str(runs[0]), str(path), "--examples", "2880"]) == 2
        assert "has no checkpoint yet" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "sharpness"])
def test_runs_of_two_functions_do_not_stand_beside_each_other(runs, tmp_path, command, capsys):
    other = write_run(tmp_path / "other", seed=0, name="cifar_resnet20")
    smoothed = shutil.copytree(runs[1], tmp_path / "smoothed")
    recipe = Run(smoothed).recipe.vary(loss=dict(label_smoothing=0.1))
    (smoothed / "recipe.yaml").write_text(recipe.to_yaml())
    for second, said in (
        (other, "model.name is cifar_resnet8 and cifar_resnet20: only runs of one network"),
        (smoothed, "loss.label_smoothing is 0.0 and 0.1: only runs with one loss"),
        (runs[0], "is named twice: name each run once"),
    ):
        assert main([command, str(runs[0]), str(second), *OPTIONS]) == 2
        assert said in capsys.readouterr().err


def test_images_are_of_the_size_that_the_checkpoint_was_trained_on(runs, tmp_path, monkeypatch):
    """Of progressive resizing: the last phase up to the checkpoint, which is not the one that comes next."""
    path = shutil.copytree(runs[0], tmp_path / "run")
    schedule = dict(image_sizes=["0ep:16", "5it:24", "10it:32"])
    recipe = Run(path).recipe.vary(schedule=schedule)
    (path / "recipe.yaml").write_text(recipe.to_yaml())
    phases = [{"start": 64 * step, "image_size": size} for step, size in ((0, 16), (5, 24), (10, 32))]
    plan = json.loads((path / "plan.json").read_text())
    (path / "plan.json").write_text(json.dumps(plan | {"phases": phases}))
    asked = []

    def batches(self, **how):
        asked.append(how["image_size"])
        raise KeyboardInterrupt

    monkeypatch.setattr(Classification, "batches", batches)
    assert main(["sharpness", str(path), *OPTIONS]) == 130
    assert asked == [24]


def test_a_spectrum_with_fewer_eigenvalues_leaves_cells_empty():
    spectra = [
        {"eigenvalues": {"values": values, "smallest": 0.0}, "trace": {"value": 1.0, "interval": (0.0, 2.0)}}
        for values in ([3.0, 2.0], [1.0])
    ]
    sharpness = [{measures.KESKAR: {"value": 1.0, "base": 1.0}}] * 2
    table = _table([SimpleNamespace(summary={})] * 2, ["a", "b"], sharpness, spectra, [[], []], [None, None])
    assert ["eigenvalue 2", "2", "-"] in table.rows
    axes = Figure().subplots()
    _draw(axes, [{"epoch": epoch, **spectrum} for epoch, spectrum in enumerate(spectra)])
    assert len(axes.get_lines()) == 3


def test_where_everything_is_cached_no_checkpoint_is_read(tmp_path, monkeypatch, capsys):
    """Of those that are, one is held at a time; the data set is opened once for all."""
    path = write_run(tmp_path / "run", seed=0)
    save_initial(path, Run(path).recipe.vary(seed=1), step=20)
    read, opened, task_of = [], [], create_task
    before = loading.read_checkpoint

    def watched(*arguments):
        gc.collect()
        assert not [each for each in read if each()], "the one before is held"
        found = before(*arguments)
        read.append(weakref.ref(found))
        return found

    monkeypatch.setattr("tools.landscape.runs.read_checkpoint", watched)
    monkeypatch.setattr(
        "tools.landscape.loss.create_task", lambda *words: opened.append(1) or task_of(*words)
    )
    assert main(["training", str(path), *OPTIONS]) == 0
    assert len(read) == 4 and opened == [1]
    assert main(["training", str(path), *OPTIONS]) == 0
    assert len(read) == 4 and opened == [1]


def test_rank_0_alone_reads_files_under_a_launcher(tmp_path, monkeypatch, capsys):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    path = write_run(tmp_path / "run", seed=0)
    for command in ("batch", "layers"):
        assert main([command, str(path)]) == 0
    assert not (path / "landscape").exists() and not capsys.readouterr().err


def test_a_detectors_loss_is_no_function_to_measure(tmp_path, capsys):
    path = write_run(tmp_path / "run", seed=0)
    (path / "recipe.yaml").write_text(tiny().to_yaml())
    for command in (["sharpness", str(path)], ["hessian", str(path)], ["compare", str(path), str(path)]):
        assert main([*command, *OPTIONS]) == 2
        assert "is of model.library=torchvision" in capsys.readouterr().err


def test_sync_batch_norm_is_measured_as_it_was_trained(tmp_path):
    run = Run(write_run(tmp_path / "run", seed=0, batch_size=64, ghost=32, batch_norm="sync"))
    layers = [
        layer
        for layer in run.model(run.weights, torch.device("cpu")).modules()
        if isinstance(layer, GhostBatchNorm2d)
    ]
    assert {layer.ghost_size for layer in layers} == {64}


def test_the_line_interpolates_what_is_a_number():
    first, second = {"a": torch.zeros(2), "n": torch.tensor(3), "bn.running_var": torch.ones(1)}, {}
    second = {"a": torch.ones(2), "n": torch.tensor(9), "bn.running_var": torch.zeros(1)}
    beyond = interpolated(first, second, 1.5)
    assert beyond["a"].tolist() == [1.5, 1.5] and beyond["n"] == 3 and beyond["bn.running_var"] > 0
    bounds = {"bounds": torch.tensor([-torch.inf, 2.0])}
    assert interpolated(bounds, bounds, 0.5)["bounds"].tolist() == [-torch.inf, 2.0]


def rated(rates, distance):
    """Rows of both kinds, one a step, with these rates and distances."""
    train = [{"step": step, "lr": lr, "batch_size": 64} for step, lr in enumerate(rates, 1)]
    return [{"step": row["step"], "distance": distance(row["step"])} for row in train], train


def test_a_logarithm_is_fitted_while_the_rate_is_high():
    def course(step):
        return (
            2 + 3 * np.log(step) if 3 <= step <= 7 else 7.0
        )  # something else in the warm-up, and once the rate has fallen

    found = fit_log(*rated([0.2, 0.6, 1, 1, 0.9, 0.7, 0.5, 0.4, 0.1], course))
    assert (found.intercept, found.slope, found.explained) == pytest.approx((2, 3, 1))
    assert (found.first, found.last) == (3, 7)
    assert fit_log(*rated([0.5, 1, 0.6, 0.4], course)) is None and fit_log([], []) is None
    # A rate that grows with its batch (ABSA) has not risen, and a batch that grows at one rate is a rate that
    # falls.
    distances, train = rated([0.5, 1, 1, 1, 4, 4, 1, 1], lambda step: np.log(step))
    for row, size in zip(train, [64, 64, 64, 64, 256, 256, 256, 256], strict=True):
        row["batch_size"] = size
    adaptive = fit_log(distances, train)
    assert (adaptive.first, adaptive.last) == (2, 6)


def test_distances_without_a_law_are_shown_without_one(runs, tmp_path, capsys):
    short = shutil.copytree(runs[0], tmp_path / "short")
    rows = [
        row for row in map(json.loads, (short / "metrics.jsonl").read_text().splitlines()) if row["step"] < 4
    ]
    write_rows(short, rows)
    assert main(["compare", str(short), str(runs[1]), "--out", str(tmp_path / "page"), *OPTIONS]) == 0
    said = capsys.readouterr().out
    assert "takes 3 rows of each run after the warm-up" in said and "distance.png" in said
    assert "distance from the start, end of the run" in (tmp_path / "page" / "compare.html").read_text()


@pytest.mark.parametrize("batch_norm", ["batch", "eval"])
def test_the_metric_on_the_line_does_not_depend_on_which_examples_share_a_batch(
    runs, tmp_path, monkeypatch, batch_norm
):
    """Classes may lie in the file one after the other, and padding is no example: the statistics are those of
    training examples.
    """
    seen, evaluate = [], Classification.evaluate

    def watched(self, model, **split):
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert not any(norm.training for norm in norms)
        seen.append((model.conv1, norms[0].running_mean.clone()))
        return evaluate(self, model, **split)

    monkeypatch.setattr(Classification, "evaluate", watched)
    words = [
        "--out",
        str(tmp_path / "page"),
        "--examples",
        "64",
        "--micro-batch",
        "16",
        "--batch-norm",
        batch_norm,
    ]
    assert main(["compare", *map(str, runs), *words]) == 0
    (batch,) = islice(
        create_task(Run(runs[0]).recipe, torch.device("cpu")).batches(
            start=0, micro_batch_size=64, rank=0, world_size=1
        ),
        1,
    )
    conv, mean = seen[-1]
    expected = conv(batch[0]).mean((0, 2, 3)) if batch_norm == "batch" else torch.zeros_like(mean)
    torch.testing.assert_close(mean, expected)


def test_a_run_without_a_checkpoint_is_reported(runs, tmp_path):
    path = write_run(tmp_path / "run", seed=0)
    for checkpoint in (path / "checkpoints").iterdir():
        checkpoint.unlink()
    with pytest.raises(RecipeError, match="has no checkpoint yet"):
        _ = Run(path).checkpoint


def test_the_hessian_is_followed_over_the_checkpoints(tmp_path, capsys):
    """Two checkpoints of different weights; a second time nothing is measured."""
    path = write_run(tmp_path / "run", seed=0)
    assert main(["training", str(path), *OPTIONS]) == 2
    assert (
        "kept 1 checkpoint: train with checkpoint.every=1ep checkpoint.keep=1000" in capsys.readouterr().err
    )
    save_initial(path, Run(path).recipe.vary(seed=1), step=20)
    assert main(["training", str(path), *OPTIONS]) == 0
    said = capsys.readouterr().out
    early, late = json.loads((path / "landscape/training.json").read_text())
    assert early["eigenvalues"]["values"] != late["eigenvalues"]["values"]
    assert {folder.name for folder in (path / "landscape").iterdir() if folder.is_dir()} == {
        "step_000000010",
        "step_000000020",
    }
    assert (path / "landscape/training.png").stat().st_size > 5000
    assert main(["training", str(path), *OPTIONS]) == 0
    again = capsys.readouterr().out
    assert said.endswith(again) and "top eigenvalues" in said and "top eigenvalues" not in again


@pytest.mark.parametrize("size", [10_000, 25_000_000])
def test_the_largest_eigenvalue_is_seen_beside_those_of_a_large_network(size):
    axes = Figure().subplots()
    density = {"nodes": [[0.0, 1000.0]], "weights": [[1 - 1 / size, 1 / size]]}
    _draw_spectra(axes, [density], ["a"])
    (line,) = axes.lines
    assert line.get_ydata()[np.abs(line.get_xdata() - 1000) < 5].max() > 3 * axes.get_ylim()[0]
