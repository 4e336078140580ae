"""What a person sees of a run: the bar, the banners, summary.csv, trackers, and the best checkpoint."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import threading
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.plan import validate_engine
from lbtrain.plan.validate import check_recipe
from lbtrain.plan.validate_engine import check_runs_here
from lbtrain.run import run
from lbtrain.runs.best import BestCheckpoint
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.checkpoint_files import check_whole
from lbtrain.runs.progress import Progress
from lbtrain.runs.rows import TrainRow
from lbtrain.runs.screen import Screen
from lbtrain.runs.summary_csv import summary_csv
from lbtrain.techniques import AdaptiveBatches
from tests.tiny_detection import KINDS, tiny

RECIPE = Recipe().vary(
    batch_size=48,
    bn_batch_size=8,
    duration="12it",
    model=dict(name="cifar_resnet8"),
    data=dict(name="digits"),
    schedule=dict(base_lr=0.05, base_batch_size=32, warmup="0ep", decay="cosine"),
    evaluate_every="3it",
    log_every="1it",
    checkpoint=dict(best="top1_error", every="6it"),
)


def row(step: int = 12_345) -> TrainRow:
    return TrainRow(
        step=step, examples=48 * step, epoch=98.76, batch_size=48, lr=0.0123, loss=1.2345,
        images_per_sec=12_345.6, data_wait=0.0, skipped_steps=0,
    )  # fmt: skip


def shown(width: int) -> str:
    """The last frame of the bar on a terminal of that width."""
    terminal, paper = (
        Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None) for _ in range(2)
    )
    screen = Screen(48 * 20_000, terminal)
    screen.show(row(12_344))
    screen.show(row())
    screen.close()
    paper.print(screen.bar.get_renderable())
    (line,) = paper.file.getvalue().splitlines()
    return line


def test_a_usual_terminal_shows_step_epoch_loss_speed_and_eta_whole():
    for width in (80, 100, 124):
        line = shown(width)
        for words in ("step 12345 ", "ep 98.76 ", "loss 1.2345 ", "12,346 img/s", "62%", "ETA "):
            assert words in line, (width, line)
        assert len(line) <= width and "…" not in line and line.rstrip()[-1] in "0123456789-"


def test_a_wide_terminal_shows_the_learning_rate_too():
    assert "lr 0.0123" in shown(160) and "images/s" in shown(160)


def test_a_narrow_terminal_still_shows_the_bar():
    line = shown(60)
    assert "━" in line and "62%" in line and "12345" in line and "ETA " in line and "…" not in line


TRAIN = {"kind": "train", "lr": 0.1}
EVAL = {"kind": "eval", "seconds": 1.0, "replaced_images": 0, "step": 1, "examples": 1}


def test_the_summary_has_the_columns_of_timms():
    rows = [
        TRAIN | {"loss": 2.0},
        TRAIN | {"loss": 1.0, "lr": 0.05},
        EVAL | {"epoch": 1.0, "loss": 0.5, "top1_error": 30.0, "top5_error": 10.0},
        TRAIN | {"loss": 0.8},
        EVAL | {"epoch": 2.0, "loss": 0.4, "top1_error": 25.0, "top5_error": 5.0},
    ]
    header, first, second = summary_csv(rows).splitlines()
    assert header == "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr"
    assert first == "1.0,1.5,0.5,70.0,90.0,0.05" and second == "2.0,0.8,0.4,75.0,95.0,0.1"


def test_best_knows_which_way_a_metric_gets_better(tmp_path):
    error, precision = BestCheckpoint(tmp_path, "top1_error"), BestCheckpoint(tmp_path, "mask_ap")
    assert [error.improved({"top1_error": value}) for value in (9.0, 9.0, 8.0, 8.5)] == [
        True,
        False,
        True,
        False,
    ]
    assert [precision.improved({"mask_ap": value}) for value in (9.0, 9.0, 8.0, 9.5)] == [
        True,
        False,
        False,
        True,
    ]
    assert not BestCheckpoint(tmp_path, "").improved({"top1_error": 1.0}) and not error.improved({})
    undefined = BestCheckpoint(tmp_path, "mask_ap")
    assert [undefined.improved({"mask_ap": value}) for value in (math.nan, 1.0)] == [False, True]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "",
        '{"metric": "loss", "value": NaN}',
        '{"metric": "loss", "value": "1"}',
        '{"metric": "loss", "value": 1.0, "step": 3}',
        '{"metric": "loss", "value": 1.0, "step": 3, "sha256": "12"}',
    ],
)
def test_a_worse_checkpoint_does_not_replace_the_best_for_a_damaged_file(tmp_path, text):
    (tmp_path / "best.json").write_text(text)
    with pytest.raises(RecipeError, match=r"best\.json cannot be read .*remove both, or restore"):
        BestCheckpoint(tmp_path, "loss")
    BestCheckpoint(tmp_path, "")


def test_the_best_has_the_value_of_its_own_evaluation(tmp_path):
    """The next one may come, and be better, while the thread still writes."""
    checkpoints = Checkpoints(tmp_path, keep=1, best="loss")
    kept, keep = [], checkpoints.best.keep
    begin = threading.Event()
    checkpoints.best.keep = lambda *given: begin.wait(10) and (kept.append(given), keep(*given))
    state = {"model": {}, "optimizer": {}, "loss_scale": 1.0, "loss_scale_steps": 0}
    assert checkpoints.best.improved({"loss": 2.0})
    checkpoints.save(state, Progress(8, 1), "", is_best=True)
    assert checkpoints.best.improved({"loss": 1.0})
    begin.set()
    checkpoints.wait()
    assert [value for *_, value in kept] == [2.0]
    assert json.loads((tmp_path / "checkpoints/best.json").read_text())["value"] == 2.0


class Killed(BaseException):
    """Nothing of the product catches it."""


def save_with_error(checkpoints, step: int, error: float) -> bool:
    improved = checkpoints.best.improved({"top1_error": error})
    state = {
        "model": {"w": torch.tensor(float(step))},
        "optimizer": {},
        "loss_scale": 1.0,
        "loss_scale_steps": 0,
    }
    checkpoints.save(state, Progress(8 * step, step), "", is_best=improved, wait=True)
    return improved


def best_step(folder) -> int:
    check_whole(folder / "best.pt")
    return int(torch.load(folder / "best.pt", weights_only=True)["state_dict"]["w"])


@pytest.mark.parametrize("renames", range(7))
def test_a_kill_anywhere_in_a_save_leaves_a_best_and_loses_none(tmp_path, monkeypatch, renames):
    """After the checksum and the checkpoint, both checksums, best.pt, its checksum, and best.json."""
    folder = tmp_path / "checkpoints"
    save_with_error(Checkpoints(tmp_path, keep=1, best="top1_error"), 1, 30.0)
    replace, count = Path.replace, itertools.count()

    def kill(self, target):
        if next(count) == renames:
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        patched.setattr(Path, "replace", kill)
        save_with_error(Checkpoints(tmp_path, keep=1, best="top1_error"), 2, 20.0)
    assert best_step(folder) in (1, 2)
    checkpoints = Checkpoints(tmp_path, keep=1, best="top1_error")
    loaded = checkpoints.newest()
    if checkpoints.missed_best(loaded):
        checkpoints.best.keep(loaded.path, loaded.progress.step, loaded.best["top1_error"])
    newest = 1 if renames < 2 else 2
    assert (loaded.progress.step, best_step(folder)) == (newest, newest)
    assert BestCheckpoint(folder, "top1_error").value == {1: 30.0, 2: 20.0}[newest]
    assert save_with_error(checkpoints, 3, 25.0) == (newest == 1)
    assert not list(folder.glob("*.new"))


def test_a_run_makes_the_best_that_a_kill_has_left_out(tmp_path):
    run(RECIPE.vary(run_dir=str(tmp_path), duration="3it"), "digits", on_screen=False)
    for name in ("best.pt", "best.sha256", "best.json"):
        (tmp_path / "checkpoints" / name).unlink()
    (tmp_path / "summary.json").unlink()
    run(RECIPE.vary(run_dir=str(tmp_path), duration="3it"), "digits", on_screen=False)
    best = json.loads((tmp_path / "checkpoints/best.json").read_text())
    assert best["step"] == 3 and (tmp_path / "checkpoints/best.pt").exists()


def cut_off(folder):
    (folder / "best.pt").write_bytes(b"PK")


def rot_with_the_checkpoint_that_it_is_linked_to(folder):
    path = folder / "step_000000002.pt"
    assert path.samefile(folder / "best.pt")
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def remove(folder):
    (folder / "best.pt").unlink()


@pytest.mark.parametrize("damage", [cut_off, rot_with_the_checkpoint_that_it_is_linked_to, remove])
def test_a_damaged_best_gives_way_to_one_as_good(tmp_path, damage):
    folder = tmp_path / "checkpoints"
    state = {"model": {}, "optimizer": {}, "loss_scale": 1.0, "loss_scale_steps": 0}

    def step_2() -> bool:
        checkpoints = Checkpoints(tmp_path, keep=2, best="loss")
        improved = checkpoints.best.improved({"loss": 1.0})
        checkpoints.save(state, Progress(16, 2), "", is_best=improved)
        checkpoints.wait()
        return improved

    assert step_2() and BestCheckpoint(folder, "loss").value == 1.0
    damage(folder)
    assert step_2() and BestCheckpoint(folder, "loss").value == 1.0
    whole = hashlib.sha256((folder / "best.pt").read_bytes()).hexdigest()
    assert (folder / "best.sha256").read_text().strip() == whole


def test_a_run_keeps_the_best_and_says_where_everything_lies(tmp_path, capsys):
    path = tmp_path / "run"
    summary = run(RECIPE.vary(run_dir=str(path)), "digits")
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    errors = {row["step"]: row["top1_error"] for row in rows if row["kind"] == "eval"}
    best = json.loads((path / "checkpoints/best.json").read_text())
    step = min(errors, key=errors.__getitem__)
    assert best.pop("sha256") and best == {"metric": "top1_error", "value": errors[step], "step": step}
    content = torch.load(path / "checkpoints/best.pt", weights_only=True)
    assert content["progress"]["step"] == step and content["class_names"] == list(map(str, range(10)))
    assert len(list(csv.DictReader((path / "summary.csv").open()))) == len(errors) == 4
    out = capsys.readouterr().out
    for words in (
        "1 rank under ddp", "cifar_resnet8, ", "1,440 of digits, 10 classes", "run directory  ",
        f"Finished: top-1 error {summary['top1_error']:.4g} % after step 12",
        f"{path}/checkpoints: the newest and the best", f"lbtrain eval {path}",
    ):  # fmt: skip
        assert words in out, words
    assert BestCheckpoint(path / "checkpoints", "top1_error").improved({"top1_error": 99.0}) is False


UNSCORED = dict(name="imagenet", validation_root="none")


def test_a_best_checkpoint_by_a_metric_that_there_is_not_is_rejected():
    with pytest.raises(RecipeError, match="ema_loss needs an average"):
        check_recipe(RECIPE.vary(checkpoint=dict(best="ema_loss")), "ddp")
    with pytest.raises(RecipeError, match=r"mask_ap is not a metric of model.library=timm. Use top1_error"):
        check_recipe(RECIPE.vary(checkpoint=dict(best="mask_ap")), "ddp")
    with pytest.raises(RecipeError, match=r"best=loss needs evaluations, and data.validation_root=none"):
        check_recipe(RECIPE.vary(checkpoint=dict(best="loss"), data=UNSCORED), "ddp")
    boxes = tiny(**KINDS["retinanet"]).vary(checkpoint=dict(best="mask_ap"))
    with pytest.raises(RecipeError, match=r"not a metric of model.detector=retinanet. Use box_ap."):
        check_recipe(boxes, "ddp")


def test_a_tracker_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr(
        validate_engine.importlib.util, "find_spec", lambda name: None if name == "trackio" else name
    )
    with pytest.raises(
        RecipeError, match=r"log.trackers=trackio needs trackio, .*pip install trackio"
    ) as error:
        check_runs_here(RECIPE.vary(log=dict(trackers=["tensorboard", "trackio"])), "ddp", "cpu")
    assert "\n" not in str(error.value)
    with pytest.raises(RecipeError, match=r"log.trackers=wandbb: .*Did you mean wandb"):
        RECIPE.vary(log=dict(trackers=["wandbb"]))


def test_the_passes_for_adversarial_images_are_no_waiting_for_data(tmp_path, monkeypatch):
    def slow(self, batch, phase, first):
        time.sleep(0.2)
        return batch

    monkeypatch.setattr(AdaptiveBatches, "adapted", slow)
    schedule = dict(base_batch_size=48, decay="none")
    recipe = RECIPE.vary(duration="3it", absa=dict(max_batch_size=96), schedule=schedule)
    run(recipe.vary(run_dir=str(tmp_path / "run")), "absa", on_screen=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    waited = [row["data_wait"] for row in rows if row["kind"] == "train"]
    assert len(waited) == 3 and min(waited) < 0.5
