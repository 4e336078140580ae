"""Data sets without a validation split, with one elsewhere, with classes numbered by a file; and what
they say of themselves before a run.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lbtrain.data import dataset_index, dataset_info, open_source
from lbtrain.data.layouts import _open_splits
from lbtrain.data.splits import read_classes, with_classes
from lbtrain.errors import RecipeError, UserError
from lbtrain.recipe import DataConfig, Recipe
from lbtrain.run import run
from tests.photos import encoded, natural, write_folder
from tools.data.__main__ import main

PHOTO = encoded(natural(0, 20, 20), "PNG")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    _open_splits.cache_clear()


def config(root: Path, **changes) -> DataConfig:
    return DataConfig(**(dict(name="imagefolder", root=str(root), image_size=16) | changes))


def classes(root: Path, **counts: int) -> Path:
    for group, count in counts.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / group / f"{number}.png").write_bytes(PHOTO)
    return root


def names(root: Path, train: bool, **changes) -> list[str]:
    _open_splits.cache_clear()
    return [
        name.decode() for name in open_source(config(root, **changes), train=train, seed=0).container.names
    ]


@pytest.mark.parametrize("inside", ["", "train"])
def test_a_share_of_every_class_is_held_out(tmp_path, inside):
    classes(tmp_path / inside, ant=40, bee=11, cat=2, dog=1)
    train, held_out = (names(tmp_path, train, validation_share=0.25) for train in (True, False))
    assert sorted(train + held_out) == sorted(
        names(tmp_path, True, validation_root="none") if inside else train + held_out
    )
    groups = [name[:3] for name in held_out]
    assert {group: groups.count(group) for group in ("ant", "bee", "cat", "dog")} == {
        "ant": 10, "bee": 3, "cat": 1, "dog": 0,
    }  # fmt: skip
    assert train == sorted(train, key=lambda name: (name[:3], int(name[4:-4]))) and len(train) == 54 - 14
    assert held_out == names(tmp_path, False, validation_share=0.25)
    info = dataset_info(config(tmp_path, validation_share=0.25))
    assert (info.train_examples, info.eval_examples, info.num_classes) == (40, 14, 4)


def test_which_are_held_out_changes_little_when_images_are_added(tmp_path):
    before = set(names(classes(tmp_path, ant=100), False, validation_share=0.1))
    after = set(names(classes(tmp_path, ant=110), False, validation_share=0.1))
    assert len(before) == 10 and len(before & after) >= 7


def test_the_share_is_part_of_the_fingerprint_and_said(tmp_path):
    classes(tmp_path, ant=40, bee=11)
    seen = set()
    for share in (0.1, 0.2, 0.21):
        index = dataset_index(config(tmp_path, validation_share=share))
        seen.add(index.fingerprint)
    assert len(seen) == 3 - (round(0.2 * 40) == round(0.21 * 40) and round(0.2 * 11) == round(0.21 * 11))
    assert str(index.validation.notes[0]).startswith(
        "10 held out of the training images, data.validation_share=0.21: "
    )


def test_a_share_of_classes_of_one_image_is_rejected(tmp_path):
    classes(tmp_path, ant=1, bee=1)
    with pytest.raises(RecipeError, match="no class has two images, so none can be held out"):
        dataset_info(config(tmp_path, validation_share=0.5))


def test_never_changing_splits(tmp_path):
    """Other images held out would make the results of two versions incomparable."""
    classes(tmp_path, ant=8)
    assert names(tmp_path, False, validation_share=0.25) == ["ant/4.png", "ant/6.png"]


def test_no_validation_images_are_said_with_three_remedies(tmp_path):
    classes(tmp_path / "train", ant=2)
    with pytest.raises(
        RecipeError, match=r"(?s)no validation images.*validation_share=0.1.*validation_root=FOLDER.*none"
    ):
        dataset_info(config(tmp_path))


def test_a_share_beside_a_validation_split_is_rejected(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(RecipeError, match=r"data.validation_share=0.1, but .* has a validation split"):
        dataset_info(config(tmp_path, validation_share=0.1))
    with pytest.raises(RecipeError, match=r"data.validation_share=0.1, but data.validation_root=none"):
        dataset_info(config(tmp_path, validation_share=0.1, validation_root="none"))
    with pytest.raises(RecipeError, match=r"data.validation_share=0.1: imagenet has a validation split"):
        dataset_info(DataConfig(name="imagenet", validation_share=0.1))
    with pytest.raises(RecipeError, match=r"data.validation_share=0.1: only photos take it"):
        dataset_info(DataConfig(validation_share=0.1))


@pytest.mark.parametrize("inside", ["", "val", "validation"])
def test_a_validation_split_elsewhere(tmp_path, inside):
    classes(tmp_path / "one", ant=3, bee=2)
    classes(tmp_path / "two" / inside, bee=4)
    source = open_source(config(tmp_path / "one", validation_root=str(tmp_path / "two")), train=False, seed=0)
    assert source.container.labels.tolist() == [1] * 4
    with pytest.raises(RecipeError, match=r"data.validation_root=/no/such: no such folder"):
        dataset_info(config(tmp_path / "one", validation_root="/no/such"))


def test_a_list_numbers_the_classes_and_leaves_the_others_out(tmp_path):
    classes(tmp_path / "train", ant=3, bee=2, cat=1)
    classes(tmp_path / "val", ant=1, cat=1)
    (tmp_path / "classes.txt").write_text("cat\nwasp\nant\n")
    listed = dict(classes=str(tmp_path / "classes.txt"))
    index = dataset_index(config(tmp_path, **listed))
    assert index.train.classes == ["cat", "wasp", "ant"] and index.train.num_images == 4
    assert str(index.train.notes[0]) == "1 left out, classes that are not in classes.txt: bee"
    for train in (True, False):
        container = open_source(config(tmp_path, **listed), train=train, seed=0).container
        for name, label in zip(container.names, container.labels, strict=True):
            assert ["cat", "wasp", "ant"][label] == name.decode().partition("/")[0]
    assert dataset_info(config(tmp_path, **listed)).num_classes == 3


def test_a_map_may_merge_classes(tmp_path):
    classes(tmp_path / "train", ant=3, bee=2, cat=1)
    classes(tmp_path / "val", ant=1, cat=1)
    (tmp_path / "map.json").write_text(json.dumps({"ant": 0, "bee": 0, "cat": 1}))
    mapped = dict(classes=str(tmp_path / "map.json"))
    index = dataset_index(config(tmp_path, **mapped))
    assert index.train.classes == ["ant+bee", "cat"]
    assert str(index.train.notes[0]) == "2 classes merged by map.json: ant, bee"
    assert open_source(config(tmp_path, **mapped), train=True, seed=0).container.labels.tolist() == [
        0
    ] * 5 + [1]


def test_as_many_classes_as_imagenet_21k_has_are_numbered_at_once(tmp_path):
    """In time that grows with their number, not with its square."""
    names = [f"n{number:08}" for number in range(20_000)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    (tmp_path / "map.json").write_text(json.dumps({name: number // 2 for number, name in enumerate(names)}))
    photos = SimpleNamespace(classes=names, labels=np.arange(20_000), notes=(), names=np.array(names, "S"))
    photos.sizes = photos.labels
    began = time.process_time()
    listed, mapped = (read_classes(tmp_path / name) for name in ("names.txt", "map.json"))
    whole = with_classes(photos, mapped, tmp_path / "map.json")
    assert time.process_time() - began < 2
    assert listed == {name: number for number, name in enumerate(names)}
    assert whole.labels.tolist() == [number // 2 for number in range(20_000)]
    assert str(whole.notes[0]).startswith("20,000 classes merged by map.json")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.txt", "", "expected one class name per line"),
        ("x.txt", "ant\nant\n", r"cannot be read \(ant is listed twice"),
        ("x.txt", "caf\u00e9\ncafe\u0301\n", r"cannot be read \(café is listed twice"),
        ("x.txt", "wasp\n", "none of its classes has images; there are ant, bee"),
        ("x.json", "{", "cannot be read"),
        ("x.json", '{"ant": 0, "bee": 1, "ant": 2}', r"cannot be read \(one object has 'ant' 2 times"),
        ("x.json", '{"caf\u00e9": 0, "cafe\u0301": 1}', "cannot be read .one object has 'café' 2 times"),
        ("x.json", '{"ant": -1}', "expected"),
        ("x.json", '["ant"]', "expected"),
        ("x.json", '{"ant": true}', "expected"),
        ("x.json", '{"ant": 1.5}', "expected"),
        ("y.txt", None, "cannot be read"),
    ],
)
def test_a_class_file_that_cannot_be_is_named(tmp_path, name, text, said):
    write_folder(tmp_path)
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=rf"data\.classes=.*{name}: {said}"):
        dataset_info(config(tmp_path, classes=str(tmp_path / name)))


def test_a_run_without_validation_trains_and_says_so(tmp_path):
    classes(tmp_path / "data", ant=8, bee=8)
    recipe = Recipe().vary(
        model=dict(name="cifar_resnet8"), batch_size=8, bn_batch_size=8, duration="2it", log_every="1it",
        data=dict(name="imagefolder", root=str(tmp_path / "data"), image_size=16, validation_root="none"),
        run_dir=str(tmp_path / "run"), evaluate_every="1it",
    )  # fmt: skip
    summary = run(recipe, "x", on_screen=False)
    assert "top1_error" not in summary and not np.isnan(summary["seconds"])
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert sum(row["kind"] == "train" for row in rows) == 2
    assert dict(dataset_index(recipe.data).rows())["validation images"] == "none: the run is not evaluated"


# The command


def test_the_command_prints_the_index_and_checks_every_image(tmp_path, capsys):
    write_folder(tmp_path)
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    index = dataset_index(config(tmp_path, image_size=0))
    assert shown.splitlines() == [f"{name:<28} {text}" for name, text in index.rows()]
    assert index.fingerprint in shown and "8 images of 2 classes, 0 ant to 1 bee" in shown
    assert main([str(tmp_path), "--check"]) == 0 and "Every image can be read." in capsys.readouterr().out
    (tmp_path / "train/ant/3.JPEG").write_bytes(b"broken")
    (tmp_path / "val/bee/0.JPEG").write_bytes(PHOTO[:100])
    assert main([str(tmp_path), "--check", "data.format=folder"]) == 6
    out, err = capsys.readouterr()
    assert out.count("cannot be read as an image") == 2 and "2 images cannot be read" in out
    assert "training images: 8 of 8" in err


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    for words, said in (
        ([str(tmp_path / "none")], "no such folder"),
        ([str(tmp_path)], "no training images in it"),
        ([str(tmp_path), "data.formt=tar"], "did you mean data.format"),
    ):
        assert main(words) == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["imagefolder", "cifar10", "coco"])
@pytest.mark.parametrize("closed", ["", "data", "data/train"])
def test_a_folder_that_is_closed_to_this_user_is_said(tmp_path, close, capsys, name, closed):
    """The one above the data set, the data set, or a split of it."""
    classes(tmp_path / "data/train", ant=2)
    close(tmp_path / closed)
    with pytest.raises(UserError, match=r"/data\S*:? cannot be read \(Permission denied\)$"):
        dataset_index(config(tmp_path / "data", name=name, image_size=0))
    assert main([str(tmp_path / "data"), f"data.name={name}"]) in (2, 6)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("cannot be read (Permission denied)")


def test_a_plan_prints_the_index_where_the_data_are_at_hand(tmp_path):
    write_folder(tmp_path)
    words = [sys.executable, "recipes/imagenet/resnet50.py", "plan_for=8"]
    at_hand = [
        "data.name=imagefolder",
        f"data.root={tmp_path}",
        "model.name=cifar_resnet8",
        "model.head_std=0",
    ]
    for more, said in (
        (at_hand, "training images              8 images of 2 classes, 0 ant to 1 bee"),
        (
            ["data.root=/no/such"],
            "data                         not read here: data.root=/no/such: no such folder",
        ),
    ):
        command = dict(cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120)
        done = subprocess.run(words + more, **command, capture_output=True, text=True, check=True)
        assert said in done.stdout
