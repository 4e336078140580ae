"""eval and predict of tiny detectors on drawn shapes."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from lbtrain import Recipe, cli
from lbtrain.data import open_instances, registry
from lbtrain.errors import RecipeError
from lbtrain.trained.eval import _on_split
from tests.tiny_detection import KINDS, run_tiny, tiny
from tests.unit.detection.test_data import shapes_as_coco

IMAGES = 4


@pytest.fixture(params=["mask_rcnn", "retinanet"])
def trained(request, tmp_path, monkeypatch):
    path = tmp_path / "run"
    summary = run_tiny({"duration": "2it", **KINDS[request.param]}, str(path), IMAGES)
    few = dataclasses.replace(registry._FACTS["shapes"], eval_examples=IMAGES)
    monkeypatch.setitem(registry._FACTS, "shapes", few)
    return path, summary, ("mask", "box") if request.param == "mask_rcnn" else ("box",)


def test_eval_and_predict_of_a_detector(trained, tmp_path, capsys):
    path, summary, kinds = trained
    assert cli.main(["eval", str(path)]) == 0
    folder = path / "evaluation/val"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {name.partition("_")[0] for name in metrics if "_a" in name} == set(kinds)
    for kind in kinds:
        for name in ("ap", "ap50", "ap75", "ar1", "ar10", "ar100"):
            assert 0 <= metrics[f"{kind}_{name}"] <= 100
    primary = f"{kinds[0]}_ap"
    assert (
        metrics[primary] == pytest.approx(summary[primary]) and summary["primary_metric"]["name"] == primary
    )
    assert (folder / "detections.png").is_file()
    classes = list(csv.DictReader((folder / "classes.csv").open()))
    assert [row["class"] for row in classes] == list(open_instances(tiny().data, train=False).class_names)
    for kind in (f"{kind}_ap" for kind in kinds):
        scored = [float(row[kind]) for row in classes if int(row["objects"])]
        assert metrics[kind] == pytest.approx(sum(scored) / len(scored))
    shown = capsys.readouterr().out
    assert all(row["class"] in shown for row in classes) and "box AP %" in shown

    image = open_instances(tiny().data, train=False)[0].pixels
    Image.fromarray(np.asarray(image)).save(tmp_path / "image.png")
    words = [str(path), str(tmp_path / "image.png"), "--min-score", "0", "--out", str(tmp_path / "p.csv")]
    assert cli.main(["predict", *words, "--pictures", str(tmp_path / "drawn")]) == 0
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert rows and all(float(row["left"]) <= float(row["right"]) <= image.shape[1] for row in rows)
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 1

    sideways = Image.Exif()
    sideways[ExifTags.Base.Orientation] = 6  # to be turned to the right, as evaluations do
    Image.fromarray(np.rot90(image)).save(tmp_path / "image.png", exif=sideways)
    assert cli.main(["predict", *words]) == 0
    assert list(csv.DictReader((tmp_path / "p.csv").open())) == rows
    assert cli.main(["export", str(path)]) == 0
    assert (path / "export/model.safetensors").is_file()


ANNOTATIONS = "annotations/instances_{}2017.json"
IN_COCO = (ANNOTATIONS, "{}2017")
LAYOUTS = {
    "COCO": ("train", "test2017", ANNOTATIONS, "{}2017"),
    "COCO without the year": ("train", "test", ANNOTATIONS, "{}2017"),
    "COCO in images": ("train", "test", ANNOTATIONS, "images/{}2017"),
    "another data set": ("train", "test", "{0}/annotations/instances_val2017.json", "{0}/val2017"),
    "Roboflow": ("train", "test", "{}/_annotations.coco.json", "{}"),
    "FiftyOne": ("train", "test", "{}/labels.json", "{}/data"),
    "not split": (".", "test", "{}/_annotations.coco.json", "{}"),
}


def with_a_test_folder(root: Path, layout: str) -> Path:
    """Photos 1 to 8 to train on and 101 to 108 in the folder for tests."""
    (root / "shapes").mkdir()
    shapes = shapes_as_coco(root / "shapes")
    for source, word in (("train", LAYOUTS[layout][0]), ("val", "test")):
        places = LAYOUTS[layout][2:] if word == "test" or "{0}" not in LAYOUTS[layout][2] else IN_COCO
        annotations, photos = (root / "data" / place.format(word) for place in places)
        shutil.copytree(shapes / f"{source}2017", photos, dirs_exist_ok=True)
        annotations.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shapes / ANNOTATIONS.format(source), annotations)
    return root / "data"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "validated",
    [
        dict(validation_share=0.25),
        dict(validation_root="none"),
        dict(validation_files=["labels.json", "photos"]),
    ],
)
def test_a_folder_of_annotated_photos_is_a_split_whatever_the_run_was_validated_on(
    tmp_path, layout, validated
):
    root = with_a_test_folder(tmp_path, layout)
    recipe = Recipe().vary(data=dict(name="coco", root=str(root), **validated))
    source = open_instances(_on_split(recipe, LAYOUTS[layout][1]).data, train=False)
    assert [source.image_id(number) for number in range(len(source))] == list(range(101, 109))


def test_a_folder_without_annotations_is_said_with_what_scores_it(tmp_path):
    root = with_a_test_folder(tmp_path, "Roboflow")
    (root / "test/_annotations.coco.json").rename(root / "test/labelled.json")
    recipe = Recipe().vary(data=dict(name="coco", root=str(root)))
    with pytest.raises(RecipeError, match=r"(?s)--split test: .*needs the test annotations in") as caught:
        _on_split(recipe, "test")
    assert "data.validation_files=FILE.json,FOLDER" in str(caught.value)
    assert "validation_share" not in str(caught.value).partition("Name others")[2]
    with pytest.raises(RecipeError, match=r"(?s)--split tst: .*needs the tst annotations in"):
        _on_split(recipe, "tst")


@pytest.mark.parametrize("split", ["", ".", "..", "../data", "test/"])
def test_a_split_is_a_name_below_the_root_of_the_data(tmp_path, monkeypatch, split):
    root = with_a_test_folder(tmp_path, "COCO")
    (root.parent / "annotations").mkdir()
    shutil.copy(root / ANNOTATIONS.format("train"), root.parent / "annotations/instances_val2017.json")
    with pytest.raises(RecipeError, match=f"--split {split}: the splits are val, train, and the folders"):
        _on_split(Recipe().vary(data=dict(name="coco", root=str(root))), split)
    monkeypatch.delenv("LBTRAIN_DATA", raising=False)
    monkeypatch.chdir(root)
    with pytest.raises(RecipeError, match=r"--split test2017: the splits are val, train, and the folders"):
        _on_split(Recipe().vary(data=dict(name="coco")), "test2017")
