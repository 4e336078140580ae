"""A large batch that goes on from every checkpoint of a small batch's run: really trained, for two steps."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lbtrain.run import run
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.progress import Progress
from lbtrain.tasks.weights import read_weights
from tests.run_rows import write_rows
from tests.tiny_detection import tiny
from tests.unit.keys.rooms import process_group_of_one
from tests.unit.landscape.untrained import save_initial, write_run
from tools.landscape import measures
from tools.landscape.__main__ import main
from tools.landscape.runs import Run
from tools.study import jobs

LARGE = """
from lbtrain import Recipe
recipe = Recipe().vary(batch_size=64, bn_batch_size=8, duration="2it", model=dict(name="cifar_resnet8"),
                       data=dict(name="digits"), schedule=dict(base_lr=1e-9, warmup="0ep"))
"""


@pytest.fixture(autouse=True)
def trained(monkeypatch) -> Iterator[list[str]]:
    """The folders that were trained in, in this process."""
    folders = []

    def train(listed, out, **_):
        for job in (job for job in listed if not job.ended):
            folders.append(job.run_dir)
            run(job.load().vary(run_dir=job.run_dir), "large", on_screen=False)

    monkeypatch.setattr(jobs, "run_jobs", train)
    monkeypatch.setattr(measures, "ITERATIONS", 1)
    with process_group_of_one():
        yield folders


@pytest.fixture
def small(tmp_path) -> Path:
    """A run that has kept one checkpoint."""
    (tmp_path / "large.py").write_text(LARGE)
    path = write_run(tmp_path / "small", seed=0)
    write_rows(path, [{"kind": "eval", "step": 10, "examples": 640, "top1_error": 12.5}])
    return path


def words_for(small: Path) -> list[str]:
    options = ["--examples", "16", "--micro-batch", "16", "optimizer.momentum=0"]
    return ["warm-start", str(small), str(small.parent / "large.py"), *options]


def test_the_large_batch_goes_on_from_each_checkpoint(small, trained, capsys):
    save_initial(small, Run(small).recipe.vary(seed=1), step=20)
    assert main(words_for(small)) == 0
    out = small / "landscape/warm-start"
    first, second = json.loads((out / "warm_start.json").read_text())
    assert [first["epoch"], second["epoch"]] == [640 / 1440, 1280 / 1440] and len(trained) == 2
    assert first["small_batch"] == [12.5] and second["small_batch"] == [], "no evaluation at its step"
    assert first["sharpness"] != second["sharpness"] and len(first["large_batch"]) == 1
    # At a rate of next to nothing the weights are still those of the checkpoint.
    for folder, start in zip(trained, Run(small).at_checkpoints(), strict=True):
        end = Run(Path(folder)).weights["conv1.weight"]
        assert torch.allclose(end, start.weights["conv1.weight"], atol=1e-6)
    assert "| 0.4444 | 12.5 |" in " ".join(capsys.readouterr().out.split())
    assert (out / "warm_start.png").stat().st_size > 5000
    assert main(words_for(small)) == 0 and len(trained) == 2, "nothing is trained twice"


def test_a_run_that_kept_one_checkpoint_is_rejected_before_training(small, trained, capsys):
    assert main(words_for(small)) == 2 and not trained
    assert "kept 1 checkpoint: train with checkpoint.every=1ep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["bn_batch_size=32", "--examples", "16"],
            "--micro-batch 16 holds no whole number of the ghost batches",
        ),
        (["--examples", "40"], "--examples 40 is not a whole number of micro-batches of 16"),
        (["data.name=mnist"], "data.name is digits and mnist"),
        (["data.validation_root=none"], "have no score to compare"),
    ],
)
def test_a_recipe_that_could_not_be_measured_is_rejected_before_training(small, trained, words, said, capsys):
    save_initial(small, Run(small).recipe, step=20)
    assert main([*words_for(small), *words]) == 2 and not trained
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("detector", ["run", "recipe"])
def test_detectors_are_rejected_before_training(small, trained, detector, capsys):
    save_initial(small, Run(small).recipe, step=20)
    if detector == "run":
        (small / "recipe.yaml").write_text(tiny().to_yaml())
    else:
        large = "from tests.tiny_detection import tiny\nrecipe = tiny()\n"
        (small.parent / "large.py").write_text(large)
    assert main(words_for(small)) == 2 and not trained
    assert "is of model.library=torchvision" in capsys.readouterr().err


def test_the_large_batch_goes_on_from_the_weights_and_not_from_their_average(small, monkeypatch):
    """The table has their score; model.weights would take the average of a run with ema.decay."""
    recipe = Run(small).recipe.vary(ema=dict(decay=0.9))
    (small / "recipe.yaml").write_text(recipe.to_yaml())
    weights, checkpoints = Run(small).weights, Checkpoints(small, keep=3)
    average = {name: tensor + 1 for name, tensor in weights.items()}
    state = {"model": weights, "optimizer": {}, "loss_scale": 1.0, "loss_scale_steps": 0}
    for step in (20, 30):
        extras = {"state_dict_ema": average}
        checkpoints.save(state, Progress(64 * step, step), recipe.to_yaml(), extras, wait=True)
    asked = []

    def train(listed, out, **_):
        asked.extend(listed)
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "run_jobs", train)
    assert main(words_for(small)) == 130
    started = read_weights(asked[-1].load().model, {}).tensors
    assert len(asked) == 3 and torch.equal(started["conv1.weight"], weights["conv1.weight"])


def test_a_folder_that_is_named_keeps_its_name(small, monkeypatch, tmp_path):
    save_initial(small, Run(small).recipe, step=20)
    outs = []

    def train(listed, out, **_):
        outs.append(out)
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "run_jobs", train)
    assert main([*words_for(small), "--out", str(tmp_path / "RUN_DIRS")]) == 130
    assert outs == [tmp_path / "RUN_DIRS"]
