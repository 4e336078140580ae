"""COCO's format in the layouts that people have it in."""

import shutil
from pathlib import Path

import pytest

from lbtrain import Recipe
from lbtrain.data import dataset_index
from lbtrain.data.coco_layouts import coco_files, has_coco
from lbtrain.errors import RecipeError
from tests.unit.detection.test_data import shapes_as_coco
from tools.data.__main__ import data_config

ANNOTATIONS = ("annotations/instances_train2017.json", "annotations/instances_val2017.json")
LAYOUTS = {
    "COCO": (*ANNOTATIONS, "train2017", "val2017"),
    "photos under images": (*ANNOTATIONS, "images/train2017", "images/val2017"),
    "photos without a year": (*ANNOTATIONS, "train", "val"),
    "another year": (*(name.replace("17", "14") for name in ANNOTATIONS), "train2014", "val2014"),
    "no year": ("annotations/instances_train.json", "annotations/instances_val.json", "train", "val"),
    "all photos in one folder": ("annotations/train.json", "annotations/val.json", "images", "images"),
    "JSON files in the root": ("train.json", "validation.json", "images/train", "images/validation"),
    "Roboflow": ("train/_annotations.coco.json", "valid/_annotations.coco.json", "train", "valid"),
    "FiftyOne": ("train/labels.json", "validation/labels.json", "train/data", "validation/data"),
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return shapes_as_coco(tmp_path_factory.mktemp("shapes"))


def laid_out(root: Path, shapes: Path, places: tuple[str, ...]) -> Path:
    """The shapes with the annotations and photos of both splits at `places` below `root`."""
    for source, place in zip((*ANNOTATIONS, "train2017", "val2017"), places, strict=True):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copy if source.endswith("json") else shutil.copytree
        options = {} if source.endswith("json") else {"dirs_exist_ok": True}
        copy(shapes / source, root / place, **options)
    return root


def index(root: Path, **keys):
    return dataset_index(Recipe().vary(data=dict(name="coco", root=str(root), **keys)).data)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_the_same_data(tmp_path, shapes, name):
    root = laid_out(tmp_path, shapes, LAYOUTS[name])
    assert index(root).fingerprint == index(shapes).fingerprint
    assert has_coco(root) and data_config(str(root), []).name == "coco"


def test_the_files_of_a_split_are_named(tmp_path, shapes):
    places = ("labels/a.json", "labels/b.json", "photos/a", "photos/b")
    root, expected = laid_out(tmp_path, shapes, places), index(shapes).fingerprint
    named = dict(train_files=["labels/a.json", "photos/a"], validation_files=["labels/b.json", "photos/b"])
    assert index(root, **named).fingerprint == expected
    words = [f"data.{key}={','.join(value)}" for key, value in named.items()]
    assert dataset_index(data_config(str(root), words)).fingerprint == expected
    somewhere = [str(root / each) for each in named["train_files"]]
    assert index(shapes, train_files=somewhere).fingerprint == expected


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (["a.json"], "data.train_files=a.json: it takes two paths"),
        (["no.json", "train2017"], "no file .*no.json"),
        ([ANNOTATIONS[0], "photos"], "no folder .*photos"),
    ],
)
def test_files_that_are_not_there_are_rejected(shapes, named, said):
    with pytest.raises(RecipeError, match=said):
        coco_files(shapes, "train", named)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("annotations/instances_train2014.json", "instances_train2014.json and .*instances_train2017.json"),
        ("train/_annotations.coco.json", "instances_train2017.json and .*_annotations.coco.json"),
        ("images/train2017/1.png", "train2017 and .*images/train2017"),
    ],
)
def test_two_places_are_named_and_a_key_chooses(tmp_path, shapes, other, said):
    root = laid_out(tmp_path, shapes, LAYOUTS["COCO"])
    (root / other).parent.mkdir(parents=True, exist_ok=True)
    (root / other).write_text("{}")
    with pytest.raises(RecipeError, match=f"the train split is there twice, .*{said}.*data.train_files="):
        coco_files(root, "train")
    assert coco_files(root, "train", [ANNOTATIONS[0], "train2017"]).photos == root / "train2017"


def test_a_link_to_the_same_photos_is_no_second_place(tmp_path, shapes):
    root = laid_out(tmp_path, shapes, LAYOUTS["COCO"])
    (root / "images").mkdir()
    (root / "images/train2017").symlink_to(root / "train2017")
    assert index(root).fingerprint == index(shapes).fingerprint


def test_a_test_split_beside_the_validation_split_has_a_note(tmp_path, shapes):
    root = laid_out(tmp_path, shapes, LAYOUTS["Roboflow"])
    (root / "test").mkdir()
    shutil.copy(root / "valid/_annotations.coco.json", root / "test")
    assert "1 left out, other splits beside the validation split: _annotations.coco.json" in map(
        str, index(root).validation.notes
    )


def test_what_is_not_there_is_said_with_the_layouts(tmp_path, shapes):
    with pytest.raises(
        RecipeError, match=r"(?s)needs the train annotations.*Roboflow.*The folder holds nothing"
    ):
        coco_files(tmp_path, "train")
    root = laid_out(tmp_path, shapes, LAYOUTS["COCO"])
    shutil.rmtree(root / "train2017")
    with pytest.raises(RecipeError, match=r"(?s)no folder with the photos of .*train2017.json.*FOLDER"):
        coco_files(root, "train")
    shutil.rmtree(root / "annotations")
    assert not has_coco(root)
