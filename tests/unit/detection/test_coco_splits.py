"""COCO data without a validation split, and with one elsewhere: by the same keys as class folders."""

import json
import shutil
from math import isnan
from pathlib import Path

import pytest
import torch

from lbtrain import Recipe
from lbtrain.data import dataset_index, dataset_info, open_instances
from lbtrain.data.coco_layouts import coco_files
from lbtrain.errors import RecipeError
from lbtrain.run import run
from lbtrain.tasks import create_task
from tests.tiny_detection import tiny
from tests.unit.detection.test_data import edited, shapes_as_coco
from tools.data.__main__ import main

TRAIN = "annotations/instances_train2017.json"


@pytest.fixture
def root(tmp_path) -> Path:
    """32 images, of which some are without objects, and no validation split."""
    (tmp_path / "data").mkdir()
    shapes_as_coco(tmp_path / "data", 32)
    shutil.rmtree(tmp_path / "data/val2017")
    (tmp_path / "data/annotations/instances_val2017.json").unlink()
    return tmp_path / "data"


def config(root: Path, **keys):
    return Recipe().vary(data=dict(name="coco", root=str(root), **keys)).data


def ids(root: Path, train: bool, **keys) -> list[int]:
    source = open_instances(config(root, **keys), train=train)
    return [source.image_id(number) for number in range(len(source))]


def test_a_share_of_the_photos_is_held_out_with_their_objects(root):
    share = dict(validation_share=0.25, empty_images=True)
    train, held_out = ids(root, True, **share), ids(root, False, **share)
    everything = json.loads((root / TRAIN).read_text())
    assert sorted(train + held_out) == [image["id"] for image in everything["images"]]
    assert 6 <= len(held_out) <= 10 and train == sorted(train) and held_out == sorted(held_out)
    info = dataset_info(config(root, **share))
    assert (info.train_examples, info.eval_examples, info.num_classes) == (len(train), len(held_out), 4)
    truth = open_instances(config(root, **share), train=False).ground_truth()
    assert {each["image_id"] for each in truth["annotations"]} <= set(held_out)
    expected = [each["id"] for each in everything["annotations"] if each["image_id"] in held_out]
    assert [each["id"] for each in truth["annotations"]] == expected != []
    with_objects = {each["image_id"] for each in everything["annotations"]}
    assert ids(root, True, validation_share=0.25) == [image for image in train if image in with_objects]


def test_never_changing_splits(root):
    """Other photos held out would make the results of two versions incomparable."""
    assert ids(root, False, validation_share=0.1) == [6, 14, 16, 17, 18]


def test_other_pixels_of_the_same_size_make_another_fingerprint(root, tmp_path):
    other = shutil.copytree(root, tmp_path / "other")
    for photo in (other / "train2017").iterdir():
        data = bytearray(photo.read_bytes())
        data[-20] ^= 1
        photo.write_bytes(data)
    one, two = (dataset_index(config(place, validation_share=0.25)).parts() for place in (root, other))
    assert {key for key in one if one[key] != two[key]} == {"train.bytes", "eval.bytes"}


def test_a_rare_class_is_in_both_splits(root):
    def two_rings(content) -> None:
        """Rings stay on two photos alone, whatever else is there."""
        rings = [each for each in content["annotations"] if each["category_id"] == 4]
        kept = sorted({each["image_id"] for each in rings})[:2]
        content["annotations"] = [
            each for each in content["annotations"] if each["category_id"] != 4 or each["image_id"] in kept
        ]

    edited(root / TRAIN, two_rings)
    for train in (True, False):
        source = open_instances(config(root, validation_share=0.1), train=train)
        assert any(4 in source[number].labels for number in range(len(source)))


def test_a_photo_under_two_ids_is_held_out_under_both(root):
    def doubled(content) -> None:
        content["images"] += [image | {"id": image["id"] + 1000} for image in content["images"]]

    edited(root / TRAIN, doubled)
    held_out = ids(root, False, validation_share=0.25)
    assert {number % 1000 for number in held_out if number < 1000} == {
        number % 1000 for number in held_out if number > 1000
    }


def test_the_share_is_part_of_the_fingerprint_and_said(root):
    indexes = [dataset_index(config(root, validation_share=share)) for share in (0.1, 0.25)]
    assert len({index.fingerprint for index in indexes}) == 2
    (note,) = indexes[0].validation.notes
    assert str(note) == (
        "5 held out of the training images, data.validation_share=0.1: 6.png, 14.png, 16.png, ..."
    )


@pytest.mark.parametrize(
    ("annotations", "photos"),
    [
        ("annotations/instances_default.json", "images/default"),
        ("annotations/instances_default.json", "images"),
        ("_annotations.coco.json", "."),
        ("labels.json", "data"),
    ],
)
def test_layouts_without_splits(root, tmp_path, annotations, photos):
    plain = tmp_path / "plain"
    shutil.copytree(root / "train2017", plain / photos)
    (plain / annotations).parent.mkdir(exist_ok=True)
    shutil.copy(root / TRAIN, plain / annotations)
    expected = dataset_index(config(root, validation_share=0.25)).fingerprint
    assert dataset_index(config(plain, validation_share=0.25)).fingerprint == expected
    with pytest.raises(RecipeError, match=r"(?s)needs the train annotations.*data.validation_share"):
        dataset_info(config(plain))


def test_a_validation_split_elsewhere(root, tmp_path):
    (tmp_path / "other").mkdir()
    shapes_as_coco(tmp_path / "other", 4)
    assert ids(root, False, validation_root=str(tmp_path / "other")) == [101, 102, 103, 104]
    with pytest.raises(RecipeError, match=r"data.validation_root=/no/such: no such folder"):
        dataset_info(config(root, validation_root="/no/such"))


def test_no_validation_images_are_said_with_three_remedies(root):
    with pytest.raises(
        RecipeError, match=r"(?s)validation annotations.*validation_share=0.1.*validation_root=FOLDER.*none"
    ):
        dataset_info(config(root))


def test_a_share_beside_a_validation_split_is_rejected(tmp_path):
    shapes_as_coco(tmp_path)
    named = ["annotations/instances_val2017.json", "val2017"]
    for keys in ({}, dict(validation_files=named)):
        with pytest.raises(RecipeError, match=r"validation_share=0.1, but .* has a validation split"):
            dataset_info(config(tmp_path, validation_share=0.1, **keys))
    with pytest.raises(RecipeError, match=r"validation_share=0.1, but data.validation_root=none"):
        dataset_info(config(tmp_path, validation_share=0.1, validation_root="none"))
    with pytest.raises(RecipeError, match=r"validation_root=none, but data.validation_files=.*: use one"):
        dataset_info(config(tmp_path, validation_files=named, validation_root="none"))


def test_keys_of_classifiers_stay_rejected(root):
    with pytest.raises(RecipeError, match=r"data.classes=.*only photos take it"):
        dataset_info(config(root, classes="classes.txt"))


def test_one_image_of_every_class_leaves_nothing_to_hold_out(root):
    edited(root / TRAIN, lambda content: content.update(images=content["images"][:1], annotations=[]))
    with pytest.raises(RecipeError, match="no class has two images, so none can be held out"):
        dataset_info(config(root, validation_share=0.5, empty_images=True))


def test_training_without_validation(root, tmp_path, capsys):
    without = dict(name="coco", root=str(root), validation_root="none")
    recipe = tiny(data=without, duration="1it", run_dir=str(tmp_path / "run"))
    index = create_task(recipe, torch.device("cpu")).index()
    assert (index.validation.num_images, index.validation.notes, index.validation.num_classes) == (0, (), 4)
    summary = run(recipe, "x", on_screen=False)
    assert "mask_ap" not in summary and not isnan(summary["seconds"])
    assert main([str(root), "data.validation_root=none", "--check"]) == 0
    said = capsys.readouterr().out
    assert "none: the run is not evaluated" in said and "Every image can be read." in said


def test_a_train_split_alone_is_still_asked_for_by_name(root):
    assert coco_files(root, "train") == coco_files(root, "train", whole=True)
