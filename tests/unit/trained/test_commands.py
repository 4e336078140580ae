"""eval, predict and export of one short run on digits, as a user types them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from lbtrain import Recipe, cli
from lbtrain.data.arrays import digits
from lbtrain.data.decode import BrokenImage
from lbtrain.errors import RecipeError
from lbtrain.run import run
from lbtrain.tasks.weights import weights_file
from lbtrain.trained.eval import images_at_once
from lbtrain.trained.images import input_of
from lbtrain.trained.model import TrainedModel, open_trained
from tests.photos import encoded, natural, write_folder

ROOT = Path(__file__).parents[3]
RECIPE = Recipe().vary(
    batch_size=48,
    bn_batch_size=8,
    duration="60it",
    model=dict(name="cifar_resnet8"),
    data=dict(name="digits"),
    schedule=dict(base_lr=0.05, base_batch_size=32, warmup="0ep", decay="cosine"),
    evaluate_every="30it",
    ema=dict(decay=0.5),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    summary = run(RECIPE.vary(run_dir=str(path)), "digits", on_screen=False)
    return path, summary


def lbtrain(*words) -> int:
    return cli.main([str(word) for word in words])


def table(path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_eval_gives_the_numbers_of_the_run_itself(trained, capsys):
    path, summary = trained
    for option, prefix in (("--raw-weights", ""), (None, "ema_")):
        assert lbtrain("eval", path, *filter(None, [option])) == 0
        metrics = json.loads((path / "evaluation/val/metrics.json").read_text())
        assert metrics["examples"] == 357
        for name in ("top1_error", "top5_error", "loss"):
            assert metrics[name] == pytest.approx(summary[prefix + name], rel=1e-6)
    assert "the average of the weights of step 60" in capsys.readouterr().out


def test_eval_writes_a_row_per_class_and_the_confusion_matrix(trained, capsys):
    path, _ = trained
    assert lbtrain("eval", path, "--split", "train", "validation_batch_size=64") == 0
    folder = path / "evaluation/train"
    metrics, rows = json.loads((folder / "metrics.json").read_text()), table(folder / "confusion.csv")
    counts = np.array([[int(row[name]) for name in map(str, range(10))] for row in rows])
    assert counts.sum() == metrics["examples"] == 1440
    assert metrics["top1_error"] == pytest.approx(100 * (1 - counts.trace() / 1440))
    classes = table(folder / "classes.csv")
    assert [row["class"] for row in classes] == list(map(str, range(10)))
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    expected = [[row["class"], row["examples"]] for row in classes]
    assert [row[:2] for row in shown if 4 <= len(row) <= 5] == expected
    assert Image.open(folder / "confusion.png").size[0] > 100


def test_predict_names_images_as_the_evaluation_does(trained, tmp_path, capsys):
    path, _ = trained
    images, labels = digits(False)
    for number in range(20):
        Image.fromarray(images[number, :, :, 0]).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert lbtrain("predict", path, tmp_path, "--out", tmp_path / "p.csv") == 0
    rows = table(tmp_path / "p.csv")
    assert [row["image"] for row in rows] == [str(tmp_path / f"{number}.png") for number in range(20)]
    hits = sum(int(row["class"]) == label for row, label in zip(rows, labels, strict=False))
    assert hits >= 15
    assert lbtrain("predict", path, tmp_path / "3.png", "--top", 3, "--out", tmp_path / "p.json") == 0
    ranked = json.loads((tmp_path / "p.json").read_text())
    assert [row["rank"] for row in ranked] == [1, 2, 3] and ranked[0]["class"] == rows[3]["class"]
    assert lbtrain("predict", path, tmp_path / "3.png") == 0
    assert capsys.readouterr().out.splitlines()[0] == "image,rank,class,score"


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_predicted(trained, tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    assert lbtrain("predict", trained[0], tmp_path) == 6
    captured = capsys.readouterr()
    assert "good.png,1," in captured.out
    assert captured.err.startswith("error: 1 of 2 images cannot be read: ") and "bad.jpg" in captured.err


def test_the_bound_on_pixels_is_that_of_the_run(trained):
    opened, data = open_trained(str(trained[0]), raw=False), encoded(natural(0, 20, 20), "PNG")
    assert input_of(data, opened.inputs, 400).shape == (1, 8, 8)
    with pytest.raises(BrokenImage, match=r"more than data\.max_pixels=399"):
        input_of(data, opened.inputs, 399)


def test_a_damaged_checkpoint_is_skipped_and_said(trained, tmp_path, capsys):
    shutil.copytree(trained[0] / "checkpoints", tmp_path / "checkpoints")
    before, newest = sorted((tmp_path / "checkpoints").glob("step_*.pt"))
    content = bytearray(newest.read_bytes())
    weight = torch.load(newest, weights_only=True)["state_dict"]["conv1.weight"]
    content[content.find(weight.numpy().tobytes()[:64])] ^= 1  # torch reads it as before
    newest.write_bytes(content)
    assert open_trained(str(tmp_path), raw=False).path == before
    assert capsys.readouterr().err.startswith(f"{newest} is damaged")
    with pytest.raises(RecipeError, match=f"{newest} is damaged: its checksum"):
        open_trained(str(newest), raw=False)
    newest.with_suffix(".sha256").unlink()
    assert open_trained(str(newest), raw=False).path == newest  # a file of which nothing is known
    before.write_bytes(b"")
    assert lbtrain("export", tmp_path) == 2
    assert "No good checkpoint is left" in capsys.readouterr().err


def test_a_trained_model_needs_no_file_that_its_network_started_from(trained):
    opened = open_trained(str(trained[0]), raw=False)
    gone = opened.recipe.vary(model=dict(args=dict(checkpoint_path="gone.pt"), weights="gone.pt"))
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(replace(opened, recipe=gone).build()(images), opened.build()(images))


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        (dict(), 64),
        (dict(batch_size=16), 16),
        (dict(max_micro_batch_size=2), 2),
        (dict(micro_batch_size=4, max_micro_batch_size=0), 4),
        (dict(batch_size=16, max_micro_batch_size=128), 16),
    ],
)
def test_eval_passes_no_more_images_at_once_than_the_training_did(changes, images):
    assert images_at_once(Recipe().vary(batch_size=256).vary(**changes)) == images


def test_weights_that_are_closed_to_this_user_are_said(trained, tmp_path, close, capsys):
    close(tmp_path / "theirs")
    assert lbtrain("predict", tmp_path / "theirs/run", tmp_path) == 2
    assert "theirs/run cannot be read (Permission denied)" in capsys.readouterr().err
    with pytest.raises(RecipeError, match=r"model\.weights=.*theirs/run cannot be read \(Perm"):
        weights_file(str(tmp_path / "theirs/run"))


@pytest.mark.parametrize("closed", ["", "photos", "photos/more"])
def test_images_that_are_closed_to_this_user_are_said(trained, tmp_path, close, capsys, closed):
    """None is left out without a word."""
    (tmp_path / "photos/more").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "photos/good.png")
    close(tmp_path / closed)
    assert lbtrain("predict", trained[0], tmp_path / "photos") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/photos: ") and line.endswith(
        "cannot be read (Permission denied)"
    )


def test_a_file_name_keeps_its_bytes_and_is_escaped_on_the_screen(trained, tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "good.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    assert lbtrain("predict", trained[0], tmp_path, "--out", tmp_path / "p.csv") == 0
    assert os.fsencode(tmp_path) + b"/caf\xe9.png,1," in (tmp_path / "p.csv").read_bytes()
    assert lbtrain("predict", trained[0], tmp_path) == 0
    assert rf"{tmp_path}/caf\xe9.png,1," in capsys.readouterr().out


def test_the_folder_of_the_predictions_is_made(trained, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    assert lbtrain("predict", trained[0], tmp_path, "--out", tmp_path / "new/folder/p.csv") == 0
    assert len(table(tmp_path / "new/folder/p.csv")) == 1


@pytest.mark.parametrize("command", ["eval", "predict", "export"])
@pytest.mark.parametrize("closed", [False, True])
def test_a_place_that_cannot_be_written_is_said_before_the_work(
    trained, tmp_path, capsys, monkeypatch, command, closed
):
    """A file is in the place of the folder, or the folder is closed to this user."""
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    if closed:
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "out")
    else:
        (tmp_path / "out").write_text("")
    monkeypatch.setattr(TrainedModel, "build", None)
    to_file = [tmp_path, "--out", tmp_path / "out/p.csv"]
    words = to_file if command == "predict" else ["--out", tmp_path / "out"]
    assert lbtrain(command, trained[0], *words) == 7
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: {tmp_path}/out could not be written" in line
    assert line.endswith(", or name another place with --out")


def test_an_evaluation_is_shown_though_it_cannot_be_written(trained, tmp_path, capsys):
    (tmp_path / "metrics.json").mkdir()
    assert lbtrain("eval", trained[0], "--out", tmp_path) == 7
    out, err = capsys.readouterr()
    assert "top1_error" in out and "most often taken for" in out and "Written to" not in out
    assert err.startswith(f"error: {tmp_path}/metrics.json could not be written")
    assert err.endswith(", or name another place with --out\n")


def test_an_evaluation_is_written_though_it_cannot_be_shown(trained, tmp_path):
    command = f"{sys.executable} -m lbtrain eval {trained[0]} --out {tmp_path} > /dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (7, 1), done.stderr
    assert json.loads((tmp_path / "metrics.json").read_text())


def test_what_was_exported_loads_in_plain_timm(trained, tmp_path):
    path, summary = trained
    assert lbtrain("export", path, "--torch") == 0
    folder = path / "export"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours, images = open_trained(str(path), raw=False), torch.randn(3, 1, 8, 8)
    expected = ours.build()(images)
    torch.testing.assert_close(model(images), expected)
    torch.testing.assert_close(torch.export.load(folder / "model.pt2").module()(images), expected)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (1, 8, 8) and config["mean"][0] == pytest.approx(77.68 / 255)
    assert config["crop_pct"] == 1.0  # its images are scored whole
    assert model.pretrained_cfg["label_names"] == list(map(str, range(10)))
    card = (folder / "README.md").read_text()
    for words in ("top-1 error: ", "Verdict: none", "data: train.examples".removeprefix("data: "), "0, 1, 2"):
        assert words in card
    assert f"top-1 error: {summary['ema_top1_error']:.4g} % at step 60" in card  # of the exported weights
    assert Recipe.from_yaml((folder / "recipe.yaml").read_text()).batch_size == 48


def test_onnx_gives_the_scores_of_the_model_for_any_number_of_images(trained, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    assert lbtrain("export", trained[0], "--onnx", "--out", tmp_path) == 0
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    model = open_trained(str(trained[0]), raw=False).build()
    for count in (1, 5):
        images = torch.randn(count, 1, 8, 8)
        (scores,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(scores), model(images))


def test_onnx_without_its_packages_is_one_line(trained, tmp_path, capsys, monkeypatch):
    def without_packages(*_, **__):
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", without_packages)
    assert lbtrain("export", trained[0], "--onnx", "--out", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: model.onnx needs onnxscript: pip install onnx onnxscript"


def test_a_run_starts_from_what_was_exported(trained, tmp_path):
    path, _ = trained
    lbtrain("export", path)
    recipe = RECIPE.vary(run_dir=str(tmp_path), duration="1it", model=dict(weights=str(path)))
    run(recipe, "digits", on_screen=False)
    assert "content of model.weights" in json.loads((tmp_path / "fingerprint.json").read_text())


@pytest.mark.parametrize("words", ["eval evaluation", "eval evaluation/val", "export export"])
def test_nothing_is_written_through_a_link_in_the_run_directory(trained, tmp_path, capsys, words):
    copy, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(trained[0], copy, ignore=shutil.ignore_patterns("evaluation", "export"))
    elsewhere.mkdir()
    command, name = words.split()
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).symlink_to(elsewhere)
    assert lbtrain(command, copy) == 2
    assert f"{name} is a link" in capsys.readouterr().err and not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "nowhere"], "nowhere does not exist. Give a run directory"),
        (["eval", "RUN", "data.name=fashion_mnist"], "needs data.root=FOLDER"),
        (["eval", "RUN", "batchsize=3"], "did you mean batch_size?"),
        (["eval", "RUN", "--split", "test"], "--split test: the splits of data.name=digits are val, train."),
        (["predict", "RUN", "nowhere.jpg"], "nowhere.jpg does not exist"),
        (["predict", "RUN", "EMPTY"], "has no images in it"),
        (["predict", "RUN", "EMPTY", "--out", "x.txt"], "must end in .csv or .json|has no images"),
        (["export", "EMPTY"], "holds no checkpoint"),
        (["eval", "FILE"], "cannot be read as a checkpoint"),
        (["eval", "OTHER"], "it lacks recipe, progress, class_names, inputs"),
    ],
)
def test_each_mistake_is_one_line_and_code_2(trained, tmp_path, capsys, words, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.pt").write_bytes(b"no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    places = {
        "RUN": trained[0],
        "EMPTY": tmp_path / "empty",
        "FILE": tmp_path / "file.pt",
        "OTHER": tmp_path / "other.pt",
    }
    assert lbtrain(*[places.get(word, word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and any(part in line for part in said.split("|"))


def test_another_folder_of_photos_is_a_split_too(tmp_path, capsys):
    photos, odd = write_folder(tmp_path / "photos"), os.fsdecode(b"caf\xe9")
    for part in ("train", "val"):
        (photos / part / "bee").rename(photos / part / odd)  # a name that is no UTF-8
    shutil.copytree(photos / "train", photos / "test")
    path = tmp_path / "run"
    recipe = Recipe().vary(
        batch_size=8,
        bn_batch_size=8,
        duration="1it",
        run_dir=str(path),
        model=dict(name="resnet18"),
        data=dict(
            name="imagefolder",
            root=str(photos),
            image_size=32,
            workers=0,
            augmentation="imagenet",
            min_crop_area=0.2,
        ),
    )
    run(recipe, "photos", on_screen=False)
    for split, examples in (("val", 5), ("test", 8), ("train", 8)):
        assert lbtrain("eval", path, "--split", split) == 0
        metrics = json.loads((path / f"evaluation/{split}/metrics.json").read_text())
        assert (metrics["split"], metrics["examples"]) == (split, examples)
        assert b"\ncaf\xe9," in (path / f"evaluation/{split}/classes.csv").read_bytes()
    assert r"caf\xe9 " in capsys.readouterr().out
    assert lbtrain("export", path) == 0 and b"caf\xe9" in (path / "export/README.md").read_bytes()
    capsys.readouterr()
    for wrong in ("tst", "../photos/test", "..", ""):
        assert lbtrain("eval", path, "--split", wrong) == 2
        assert f"--split {wrong}: the splits are val, train, and" in capsys.readouterr().err
