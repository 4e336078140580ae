"""What the index of a data set holds: every image once, with the class that it was given, in one order, and a
line for everything that was left out, linked, repeated, merged or guessed.
"""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lbtrain.data import coco_layouts, dataset_index, dataset_info, open_source
from lbtrain.data.folder import Files
from lbtrain.data.index import Notes, natural_key, sampled
from lbtrain.data.layouts import _open_splits
from lbtrain.data.parquet import ParquetRows
from lbtrain.data.splits import SPLITS
from lbtrain.data.tar import TarMembers
from lbtrain.errors import DataError, RecipeError
from lbtrain.recipe import DataConfig
from tests.photos import encoded, natural, write_folder

ROOT = Path(__file__).parents[2]
PHOTO = encoded(natural(0, 20, 20), "PNG")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    _open_splits.cache_clear()


def config(root: Path, **changes) -> DataConfig:
    return DataConfig(**(dict(name="imagefolder", root=str(root), image_size=16) | changes))


def write(root: Path, *names: str, data: bytes = PHOTO) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def notes(container) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {note.what: (note.count, note.names) for note in container.notes}


def read_back(container) -> list[tuple[str, int]]:
    """(name, label) of every image, and its bytes are read."""
    assert all(container.read(number) for number in range(len(container)))
    return [
        (name.decode(), int(label)) for name, label in zip(container.names, container.labels, strict=True)
    ]


def tar_of(path: Path, *members: str | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for member in members:
            name, data = member if isinstance(member, tuple) else (member, PHOTO)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return path


# One order


SAME_BUT_FOR_TIES = (["A", "a", "B", "b"], ["1", "01", "001"], ["x2", "x10", "X2"], ["\u00e9", "e", "\u00b2"])


def test_classes_are_numbered_alike_in_every_process(tmp_path):
    for number, groups in enumerate(SAME_BUT_FOR_TIES):
        for group in groups:
            write(tmp_path / f"{number}", f"{group}/0.png")
        tar_of(tmp_path / f"{number}.tar", *(f"{group}/0.png" for group in reversed(groups)))
    code = (
        "import sys, pathlib; from lbtrain.data.folder import Files; from lbtrain.data.tar import "
        "TarMembers\n"
        "for number in range(4):\n"
        "    root = pathlib.Path(sys.argv[1]) / str(number)\n"
        "    print(Files(root).classes, TarMembers([root.with_suffix('.tar')]).classes)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, tmp_path],
            env=os.environ | {"PYTHONHASHSEED": str(seed), "XDG_CACHE_HOME": str(tmp_path / f"cache{seed}")},
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
        ).stdout
        for seed in (0, 1)
    }  # fmt: skip
    expected = [sorted(groups, key=natural_key) for groups in SAME_BUT_FOR_TIES]
    assert found == {"".join(f"{groups} {groups}\n" for groups in expected)}


def test_the_natural_order_by_hand():
    names = ["a10", "a9", "A9", "a09", "b", "a", "a-1", "10", "9", "a" + "9" * 5000]
    expected = ["9", "10", "a", "A9", "a09", "a9", "a10", "a" + "9" * 5000, "a-1", "b"]
    assert sorted(names, key=natural_key) == expected
    assert sorted(reversed(names), key=natural_key) == expected


# Folders


def test_the_first_folder_is_the_class_and_what_is_left_out_is_named(tmp_path):
    write(
        tmp_path,
        "cat/session1/a.png",
        "dog/session1/a.png",
        "cat/session2/deep/b.png",
        "dog/c.png",
        "stray.png",
    )
    write(tmp_path, ".ipynb_checkpoints/a.png", "cat/.DS_Store", "cat/._a.png", "cat/.thumbs/t.png")
    write(tmp_path, "cat/readme.txt", "dog/list.csv", "dog/noending", "heic/a.heic", "heic/b.heic")
    (tmp_path / "empty").mkdir()
    found = Files(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert read_back(found) == [
        ("cat/session1/a.png", 0),
        ("cat/session2/deep/b.png", 0),
        ("dog/c.png", 1),
        ("dog/session1/a.png", 1),
    ]
    assert notes(found) == {
        "folders inside class folders, merged into their class": (
            3, ("cat/session1", "cat/session2/deep", "dog/session1"),
        ),
        "left out, hidden": (4, (".ipynb_checkpoints/", "cat/._a.png", "cat/.DS_Store")),
        "left out, in no class folder": (1, ("stray.png",)),
        "left out, class folders without images": (2, ("empty", "heic")),
        "left out, no image by the ending of the name": (
            5, ("cat/readme.txt", "dog/list.csv", "dog/noending"),
        ),
    }  # fmt: skip
    assert str(found.notes[-1]) == (
        "5 left out, no image by the ending of the name: cat/readme.txt, dog/list.csv, dog/noending, ..."
    )


@pytest.mark.parametrize(
    "ending", ["webp", "bmp", "tif", "gif", "jfif", "jpe", "JPG", "Jpeg", "ppm", "jp2", "tga"]
)
def test_images_are_read_by_every_ending(tmp_path, ending):
    assert read_back(Files(write(tmp_path, f"cat/a.{ending}"))) == [(f"cat/a.{ending}", 0)]


def test_links_are_followed_and_counted(tmp_path):
    write(tmp_path / "elsewhere", "bees/a.png", "x.png")
    write(tmp_path / "train", "ant/a.png")
    (tmp_path / "train/bee").symlink_to(tmp_path / "elsewhere/bees")
    (tmp_path / "train/ant/b.png").symlink_to("../../elsewhere/x.png")
    os.link(tmp_path / "train/ant/a.png", tmp_path / "train/ant/c.png")
    found = Files(tmp_path / "train")
    assert read_back(found) == [("ant/a.png", 0), ("ant/b.png", 0), ("ant/c.png", 0), ("bee/a.png", 1)]
    assert notes(found) == {"reached through a link": (2, ("ant/b.png", "bee"))}
    assert found.sizes.tolist() == [len(PHOTO)] * 4


def test_links_that_lead_nowhere_or_in_a_circle_are_named(tmp_path):
    write(tmp_path, "one/ant/a.png", "two/ant/a.png", "three/ant/a.png")
    (tmp_path / "one/ant/b.png").symlink_to("gone.png")
    (tmp_path / "two/ant/b").symlink_to(tmp_path / "two")
    (tmp_path / "three/ant/b").symlink_to(tmp_path / "three/ant")
    with pytest.raises(
        DataError, match=r"one/ant/b.png: the link leads to .*ant/gone.png, which is not there"
    ):
        Files(tmp_path / "one")
    for name in ("two", "three"):
        with pytest.raises(
            DataError, match=rf"{name}/ant/b: the link leads back to a folder that it lies in"
        ):
            Files(tmp_path / name)


def test_a_folder_or_a_link_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path, "ant/a.png")
    (tmp_path / "ant" / "b.png").symlink_to("b.png")
    with pytest.raises(DataError, match=r"ant/b\.png: cannot be read \(Too many levels of symbolic links\)"):
        Files(tmp_path)
    (tmp_path / "ant" / "b.png").unlink()

    def denied(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=rf"{tmp_path}: cannot be read \(Permission denied\)"):
        Files(tmp_path)


def test_accents_are_the_same_however_a_file_system_writes_them(tmp_path):
    """Composed (Linux) or not (macOS): in one order, under one name; both in one place are an accident."""
    for number, spelling in enumerate(("\u00e9t\u00e9", "e\u0301te\u0301")):
        write(tmp_path / f"{number}", f"{spelling}/0.png", "f/0.png", "zoo/0.png")
        tar_of(tmp_path / f"{number}.tar", f"{spelling}/0.png", "f/0.png", "zoo/0.png")
    found = [Files(tmp_path / "0"), Files(tmp_path / "1")]
    found += [TarMembers([tmp_path / "0.tar"]), TarMembers([tmp_path / "1.tar"])]
    assert [list(each.classes) for each in found] == 4 * [["f", "zoo", "\u00e9t\u00e9"]]
    write(tmp_path / "0", "e\u0301te\u0301/1.png")
    with pytest.raises(
        RecipeError, match="two classes are named \u00e9t\u00e9, and differ only in how an accent"
    ):
        Files(tmp_path / "0")
    write(tmp_path / "2", "ant/1.png", "ant /1.png")
    with pytest.raises(
        RecipeError, match=r"two classes are named ant, .*spaces around it \('ant ' and 'ant'\)"
    ):
        Files(tmp_path / "2")


def test_names_that_are_no_text_are_read_and_shown(tmp_path):
    name = os.fsdecode(b"caf\xe9\n.png")
    write(tmp_path, f"ant/{name}", "ant/a.png", "ant/\u202ex.txt")
    found = Files(tmp_path)
    assert len(found) == 2 and found.read(1) == PHOTO
    collected = Notes()
    collected.add("left out, hidden", name)
    assert str(collected.collected()[0]) == r"1 left out, hidden: caf\xe9\n.png"
    assert "\\u202ex.txt" in str(found.notes[0])


def test_a_pipe_among_the_images_is_left_out(tmp_path):
    write(tmp_path, "ant/a.png")
    os.mkfifo(tmp_path / "ant/b.png")
    assert notes(Files(tmp_path)) == {"left out, neither a file nor a folder": (1, ("ant/b.png",))}


# Fingerprints


def test_a_fingerprint_is_that_of_names_labels_sizes_and_bytes(tmp_path):
    write_folder(tmp_path / "one")
    for path in reversed(
        sorted((tmp_path / "one").rglob("*.*"))
    ):  # another place, other times, another order
        write(tmp_path / "two", str(path.relative_to(tmp_path / "one")), data=path.read_bytes())
    first, second = (dataset_index(config(tmp_path / name)) for name in ("one", "two"))
    assert first == second and len(first.fingerprint) == 16
    assert first.train.fingerprint != first.validation.fingerprint
    seen = {first.fingerprint}
    for change in (
        lambda root: (root / "train/ant/0.JPEG").rename(root / "train/ant/00.JPEG"),
        lambda root: (root / "train/ant/1.JPEG").rename(root / "train/bee/9.JPEG"),
        lambda root: (root / "train/ant/3.JPEG").write_bytes(b"other"),
        lambda root: (root / "val/ant/0.JPEG").write_bytes(b"other"),
        lambda root: (root / "val/ant/0.JPEG").write_bytes(b"OTHER"),
    ):
        change(tmp_path / "two")
        _open_splits.cache_clear()
        seen.add(dataset_index(config(tmp_path / "two")).fingerprint)
    assert len(seen) == 6


@pytest.mark.parametrize("form", ["folder", "tar", "parquet"])
def test_other_pixels_of_the_same_names_and_sizes_make_another_fingerprint(tmp_path, form):
    """As of photos that were resized or recoloured without compression."""
    for place, data in (("one", b"12345"), ("two", b"12346")):
        for split in ("train", "validation"):
            path = write(tmp_path / place, "readme.md") / split
            if form == "folder":
                write(path, "ant/a.bmp", "bee/b.bmp", data=data)
            elif form == "tar":
                tar_of(path.with_suffix(".tar"), ("ant/a.bmp", data), ("bee/b.bmp", data))
            else:
                table = pa.table({"image": [data, data], "label": [0, 1]})
                pq.write_table(table, path.with_suffix(".parquet"))
    one, two = (dataset_index(config(tmp_path / place)).parts() for place in ("one", "two"))
    assert {key for key in one if one[key] != two[key]} == {"train.bytes", "eval.bytes"}


def test_few_images_are_read_for_the_fingerprint():
    def places_read(sizes: list[int]) -> list[int]:
        found: list[int] = []

        def read(place: int) -> bytes:
            found.append(place)
            return b""

        sampled(np.array(sizes, np.int64), read)
        return found

    assert places_read([]) == [] and places_read([9]) == [0] and places_read([9] * 64) == list(range(64))
    many = places_read([9] * 1001)
    assert len(many) == 64 and (many[0], many[-1]) == (0, 1000)
    assert {*np.diff(many).tolist()} == {15, 16}
    assert places_read([3 << 20] * 1000) == [place * 999 // 15 for place in range(16)]
    assert places_read([65 << 20] * 1000) == []  # a file of one row group: reading any image takes all


def test_an_image_that_cannot_be_read_is_no_matter_of_the_fingerprint(tmp_path):
    def read(place: int) -> bytes:
        raise OSError("gone")

    assert sampled(np.array([5], np.int64), read) == sampled(np.array([7], np.int64), lambda place: b"")


def test_a_fingerprint_does_not_depend_on_how_a_file_system_composes_accents(tmp_path):
    for place, name in (("one", "caf\u00e9"), ("two", "cafe\u0301")):
        write(tmp_path / place, f"train/{name}/a.png", f"val/{name}/a.png")
    assert len({dataset_index(config(tmp_path / place)).fingerprint for place in ("one", "two")}) == 1


def test_fingerprints_never_change(tmp_path):
    """Another value would make every run that goes on think that its data have changed."""
    write(tmp_path, "train/ant/a.png", "train/bee/b.png", "val/ant/c.png", data=b"12345")
    assert dataset_index(config(tmp_path)).fingerprint == "30343095b97b2e3d"


@pytest.mark.parametrize("name", ["digits", "synthetic", "shapes"])
def test_every_source_has_a_fingerprint(name):
    changes = dict(image_size=16) if name != "digits" else {}
    index, again = (dataset_index(DataConfig(name=name, **changes)) for _ in range(2))
    assert index == again and index.train.fingerprint != index.validation.fingerprint
    info = dataset_info(DataConfig(name=name, **changes))
    assert (index.train.num_images, index.train.num_classes) == (info.train_examples, info.num_classes)


def test_one_pixel_and_one_image_change_the_fingerprint_of_arrays():
    source = open_source(DataConfig(), train=True, seed=0)
    fewer = open_source(DataConfig(train_examples=64), train=True, seed=0)
    images = source.images.numpy().copy()
    images[7, 0, 0, 0] ^= 1
    changed = type(source)(images, source.labels.numpy(), mean=(0.0,), std=(1.0,), augment=False, seed=0)
    assert len({each.index.fingerprint for each in (source, fewer, changed)}) == 3


def test_the_index_in_words(tmp_path):
    write(tmp_path, "train/ant/a.png", "train/bee/b.png", "train/x.png", "val/ant/c.png", "test/ant/c.png")
    rows = list(dataset_index(config(tmp_path)).rows())
    assert rows[1:] == [
        ("training images", "2 images of 2 classes, 0 ant to 1 bee"),
        ("training: note", "1 left out, in no class folder: x.png"),
        ("validation images", "1 images of 2 classes, 0 ant to 1 bee"),
        ("validation: note", "1 left out, other splits beside the validation split: test"),
        ("validation: note", "1 classes without an image: bee"),
    ]


def test_what_lies_beside_the_splits_is_named(tmp_path):
    """The validation split has four names; none of the others is one."""
    write(tmp_path, "train/ant/a.png", "valid/ant/b.png", "extra/ant/c.png", "readme.md", ".git/x", "cls.txt")
    (tmp_path / "cls.txt").write_text("ant")
    found = dataset_index(config(tmp_path, classes=str(tmp_path / "cls.txt")))
    assert list(map(str, found.train.notes)) == [
        "2 left out, beside the splits: extra, readme.md", "1 left out, hidden: .git",
    ]  # fmt: skip
    assert (found.validation.num_images, found.validation.notes) == (1, ())
    rows(tmp_path / "hub/data/train-0.parquet", [0])
    rows(tmp_path / "hub/data/validation-0.parquet", [0])
    rows(tmp_path / "hub/data/trainval-0.parquet", [0])
    found = dataset_index(config(tmp_path / "hub"))
    assert list(map(str, found.train.notes)) == ["1 left out, beside the splits: trainval-0.parquet"]
    assert (found.train.num_images, found.validation.num_images, found.validation.notes) == (1, 1, ())
    with pytest.raises(RecipeError, match=r"no training images(?s:.*)The folder holds Train, x\.zip\."):
        dataset_index(config(write(tmp_path / "other", "Train/ant/a.png", "x.zip")))


@pytest.mark.parametrize(
    "place",
    ["{}/0.tar", "{}-0.tar", "data-{}-0.tar", "{}/0.parquet", "{}-0.parquet", "data/{}-0.parquet"],
)
def test_hidden_files_beside_tar_and_parquet_files_are_no_data(tmp_path, place):
    """macOS leaves ._NAME beside what it copies, notebooks leave folders."""
    for split in ("train", "validation"):
        path = tmp_path / place.format(split)
        write(path.parent, f"._{path.name}", ".ipynb_checkpoints/x", data=b"")
        if path.suffix == ".tar":
            tar_of(path, "ant/a.png")
        else:
            rows(path, [0])
    found = dataset_index(config(tmp_path))
    assert (found.train.num_images, found.validation.num_images) == (1, 1)
    hidden = [note for note in found.train.notes if note.what == "left out, hidden"]
    folders = ("train/", "validation/") if place.startswith("{}/") else ("",)
    assert [note.count for note in hidden] == [4 if folders[1:] else 3]
    assert f"{folders[0]}.ipynb_checkpoints" in hidden[0].names


OF_SYSTEMS = (
    "@eaDir/ant.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/ant/a.png", "lost+found/a.png", "$RECYCLE.BIN/a.png",
    "#recycle/a.png", "@Recycle/a.png", "ant/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "bee/__MACOSX/b.png",
    ".thumbnails/a.png",
)  # fmt: skip


@pytest.mark.parametrize("form", ["folder", "tar", "samples"])
def test_folders_that_systems_leave_behind_are_hidden(tmp_path, form):
    """But a class may be called @, as in sets of letters, and a photo after a name of a social network."""
    images = ("@/a.png", "ant/@name.png", "bee/#1.png")
    for split in ("train", "val"):
        if form == "folder":
            write(tmp_path / split, *images, *OF_SYSTEMS)
        else:
            labels = [(f"{name[:-4]}.cls", name.partition("/")[0].encode()) for name in images]
            tar_of(tmp_path / f"{split}.tar", *images, *OF_SYSTEMS, *(labels if form == "samples" else ()))
    train = open_source(config(tmp_path), train=True, seed=0).container
    assert read_back(train) == list(zip(images, range(3), strict=True))
    assert train.classes == ["@", "ant", "bee"]
    assert notes(train)["left out, hidden"][0] == len(OF_SYSTEMS)


@pytest.mark.parametrize(
    "folders",
    [
        ("Training", "Validation"),
        ("seg_train", "seg_test", "seg_pred"),
        ("TRAIN", "Val", "Test"),
        ("train_set", "test-set"),
        ("train2017", "val2017", "unlabeled2017"),
        ("Test",),
    ],
)
def test_splits_by_other_names_are_no_classes(tmp_path, folders):
    write(
        tmp_path, *(f"{each}/{group}/{n}.png" for each in folders for group in ("ant", "bee") for n in (1, 2))
    )
    with pytest.raises(RecipeError, match=rf"folders of classes are called .*{folders[0]}.*which are splits"):
        dataset_index(config(tmp_path, validation_share=0.5))


def test_a_train_among_other_classes_is_one(tmp_path):
    write(tmp_path, *(f"{each}/{n}.png" for each in ("bus", "Train", "train_station") for n in (1, 2)))
    assert dataset_index(config(tmp_path, validation_share=0.5)).train.num_classes == 3


@pytest.mark.parametrize("inside", ["", "train/"])
def test_a_folder_above_the_classes_is_no_class(tmp_path, inside):
    write(tmp_path, *(f"{inside}photos/{group}/{n}.png" for group in ("ant", "bee") for n in (1, 2)))
    with pytest.raises(
        RecipeError, match="the only class, photos, has no images but folders in it, ant, bee"
    ):
        dataset_index(config(tmp_path, validation_share=0.5))
    write(tmp_path, f"{inside}photos/1.png")
    assert dataset_index(config(tmp_path, validation_share=0.5)).train.num_classes == 1


@pytest.mark.parametrize(
    "names",
    [
        ("images/a.png", "labels/a.txt"),
        ("JPEGImages/a.png", "Annotations/a.xml"),
        ("images/a.png", "masks/a.png"),
    ],
)
def test_images_beside_their_boxes_or_masks_are_no_classes(names, tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split, *names)
    with pytest.raises(RecipeError, match=r"folders of classes are called .*boxes are read in COCO's format"):
        dataset_index(config(tmp_path))
    write(tmp_path, "train/bee/a.png")
    assert dataset_index(config(tmp_path)).train.num_images >= 2


# Tar files


def test_a_tar_is_read_as_the_folder_that_it_was_made_of(tmp_path):
    root = write_folder(tmp_path / "photos") / "train"
    write(
        root,
        "cat/session1/a.png",
        "cat/session2/b.png",
        "x.png",
        ".hidden/a.png",
        "ant/._0.JPEG",
        "ant/note.txt",
    )
    (root / "cat/linked.png").symlink_to("../bee/2.png")
    (root / "bees").symlink_to("bee")
    os.link(root / "ant/0.JPEG", root / "ant/hard.JPEG")
    with tarfile.open(tmp_path / "train.tar", "w") as file:
        file.add(root, "./train")
    folder, tar = Files(root), TarMembers([tmp_path / "train.tar"])
    assert [(name.removeprefix("train/"), label) for name, label in read_back(tar)] == read_back(folder)
    assert [tar.read(n) for n in range(len(tar))] == [folder.read(n) for n in range(len(folder))]
    assert folder.classes == tar.classes == ["ant", "bee", "bees", "cat"]
    assert notes(tar)["reached through a link"] == (
        3,
        ("train/ant/hard.JPEG", "train/bees", "train/cat/linked.png"),
    )
    assert notes(tar)["left out, in no class folder"] == (1, ("train/x.png",))
    again = TarMembers([tmp_path / "train.tar"])  # from the kept index
    assert read_back(again) == read_back(tar) and again.notes == tar.notes


@pytest.mark.parametrize("split", [*chain(*SPLITS.values())])
def test_an_image_beside_the_class_folders_of_a_split_is_in_no_class(tmp_path, split):
    """Whatever the split is called: the folders and annotations of every layout have the same names."""
    tar = TarMembers(
        [tar_of(tmp_path / "x.tar", f"{split}/ant/1.png", f"{split}/bee/2.png", f"{split}/x.png")]
    )
    assert tar.classes == ["ant", "bee"] and notes(tar)["left out, in no class folder"][0] == 1
    write(tmp_path, f"{split}/ant/1.png")
    assert coco_layouts.has_coco(tmp_path, "train") is coco_layouts.has_coco(tmp_path, "validation") is False
    (tmp_path / f"{split}/labels.json").write_text("{}")
    (half,) = (half for half, words in SPLITS.items() if split in words)
    assert coco_layouts.has_coco(tmp_path, half)


def entry(name: str, link: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    ("link", "said"),
    [
        (
            entry("ant/b.png", "gone.png"),
            "the link ant/b.png leads to ant/gone.png, which is not in the archive",
        ),
        (entry("ant/b.png", "/etc/x.png"), "leads to /etc/x.png, which is not in the archive"),
        (entry("ant/b.png", "../../x.png"), "which is not in the archive"),
        (
            entry("ant/b.png", "bee/c.png", tarfile.LNKTYPE),
            "the link ant/b.png leads to bee/c.png, which is not",
        ),
        (entry("bee", "/data/bee"), "the link bee leads to /data/bee, which is not in the archive"),
        (entry("ant/b.png", "b.png"), "the link ant/b.png leads round in a circle"),
        (entry("ant/loop", "."), "the link ant/loop leads back to a folder that it lies in"),
        (entry("../bee/b.png", "a.png"), "../bee/b.png leads out of the archive"),
    ],
)
def test_links_out_of_a_tar_are_named(tmp_path, link, said):
    with tarfile.open(tmp_path / "train.tar", "w") as file:
        member = tarfile.TarInfo("ant/a.png")
        member.size = len(PHOTO)
        file.addfile(member, io.BytesIO(PHOTO))
        file.addfile(link)
    with pytest.raises(DataError, match=said.replace(".", r"\.")):
        TarMembers([tmp_path / "train.tar"])


def test_of_a_name_that_comes_twice_in_a_tar_the_last_counts(tmp_path):
    """As unpacking it would leave it."""
    tar = tar_of(tmp_path / "train.tar", ("ant/a.png", b"old"), "ant/b.png", ("./ant/a.png", b"the new one"))
    found = TarMembers([tar])
    assert found.read(0) == b"the new one" and len(found) == 2
    assert notes(found) == {"named twice in a tar file, of which the last counts": (1, ("ant/a.png",))}


def test_one_image_in_two_tars_is_named(tmp_path):
    tars = [tar_of(tmp_path / f"{number}.tar", "ant/a.png", f"ant/{number}.png") for number in range(2)]
    with pytest.raises(DataError, match=r"ant/a\.png is in .*0\.tar and in .*1\.tar"):
        TarMembers(tars)


@pytest.mark.parametrize("inner", ["", "images/", "./"])
def test_a_tar_per_class(tmp_path, inner):
    tars = [tar_of(tmp_path / f"{name}.tar", f"{inner}a.png", f"{inner}b.png") for name in ("ant", "bee")]
    found = TarMembers(tars, per_class=True)
    assert found.classes == ["ant", "bee"] and found.labels.tolist() == [0, 0, 1, 1]
    assert notes(found) == {"classes guessed from the names of tar files": (2, ("ant.tar", "bee.tar"))}


def test_shards_without_classes_have_none(tmp_path):
    tar_of(tmp_path / "train-00000.tar", "0.png", "1.png")
    with pytest.raises(RecipeError, match="no images in the tar files; members are expected as CLASS/IMAGE"):
        dataset_info(config(tmp_path))


# webdataset's samples


def test_the_label_of_a_sample_is_its_class(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    for shard in range(2):
        members = [
            part
            for number in range(3)
            for part in (
                f"{shard}/{number:04}.jpg",
                (f"{shard}/{number:04}.cls", str(2 * shard + number).encode()),
                (f"{shard}/{number:04}.json", b"{}"),
                f"{shard}/{number:04}.seg.png",
            )
        ]
        tar_of(tmp_path / f"train/{shard:06}.tar", *members)
    tar_of(tmp_path / "val/000000.tar", "x.png", ("x.cls", b"4\n"))
    train = open_source(config(tmp_path), train=True, seed=0).container
    assert read_back(train) == [
        ("0/0000.jpg", 0),
        ("0/0001.jpg", 1),
        ("0/0002.jpg", 2),
        ("1/0000.jpg", 2),
        ("1/0001.jpg", 3),
        ("1/0002.jpg", 4),
    ]
    assert dataset_info(config(tmp_path)).num_classes == 5
    assert notes(train) == {
        "left out, other parts of samples": (12, ("0/0000.json", "0/0000.seg.png", "0/0001.json"))
    }
    assert open_source(config(tmp_path), train=False, seed=0).container.labels.tolist() == [4]


def test_labels_may_be_names_and_lie_in_json(tmp_path):
    tars = [
        tar_of(
            tmp_path / "a.tar", "1.webp", ("1.json", b'{"label": "dog", "x": 1}'), "2.jpg", ("2.cls", b"cat")
        ),
        tar_of(
            tmp_path / "b.tar",
            "1.png",
            ("1.json", b'{"cls": "ant"}'),
            ("3.json", b"{}"),
            ("README", b"hello"),
        ),
    ]
    found = TarMembers(tars, per_class=True)
    assert found.classes == ["ant", "cat", "dog"]
    assert read_back(found) == [("1.png", 0), ("2.jpg", 1), ("1.webp", 2)]
    assert notes(found) == {"left out, samples without an image": (2, ("3", "README"))}


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (["1.jpg", ("1.cls", b"1"), "2.jpg"], r"2\.jpg has no label. It is expected in 2\.cls, or as label"),
        (["1.jpg", ("1.cls", b"1"), "2.jpg", ("2.json", b'{"label": true}')], r"2\.jpg has no label"),
        (["1.jpg", ("1.cls", b" ")], r"1\.jpg has no label"),
        (["1.jpg", "1.png", ("1.cls", b"1")], r"the sample 1 has 2 images: 1\.jpg, 1\.png"),
    ],
)
def test_a_sample_without_a_label_or_with_two_images_is_named(tmp_path, members, said):
    with pytest.raises(DataError, match=rf"train\.tar: {said}"):
        TarMembers([tar_of(tmp_path / "train.tar", *members)])


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (["x.JPG", ("x.CLS", b"2"), "y.JPG", ("y.CLS", b"0\n")], [("y.JPG", 0), ("x.JPG", 2)]),
        (["x.jpg", ("x.cls", b"2.0"), "y.jpg", ("y.json", b'{"label": 1.0}')], [("y.jpg", 1), ("x.jpg", 2)]),
        (["x.jpg", ("x.json", b"2"), "y.jpg", ("y.json", b'{"cls": 0}')], [("y.jpg", 0), ("x.jpg", 2)]),
        (["x.jpg", ("x.cls", b"1"), "y.jpg", ("y.cls", b"-1")], [("y.jpg", -1), ("x.jpg", 1)]),
    ],
)
def test_labels_as_programs_write_them(tmp_path, members, expected):
    found = TarMembers([tar_of(tmp_path / "000000.tar", *members)], per_class=True)
    assert (read_back(found), found.classes) == (expected, None)


@pytest.mark.parametrize(
    ("members", "error", "said"),
    [
        (["x.jpg", ("x.json", b"{}"), "y.jpg", ("y.json", b'{"label": 1}')], DataError, "x.jpg has no label"),
        (["x.jpg", ("x.cls", b"\xff\x01")], DataError, "x.jpg has no label"),
        (["x.jpg", ("x.cls", b"\0\0\0\1")], DataError, "x.jpg has no label"),
        (["x.jpg", "x.JPG", ("x.cls", b"1")], DataError, "the sample x has 2 images: x.jpg, x.JPG"),
        (["n.1.jpg", ("n.1.cls", b"0"), "n.2.jpg", ("n.2.cls", b"1")], DataError,
         "sample n has 2 images: n.1.jpg, n.2.jpg. The key of a sample ends at the first dot"),
        (["x.jpg", ("x.txt", b"0")], RecipeError, "x.txt belongs to an image.*of a shard is not a class"),
        (["x.jpg", ("x.json", b'{"id": 0}')], RecipeError, "x.json belongs to an image"),
    ],
)  # fmt: skip
def test_the_name_of_a_shard_is_never_the_class_of_a_sample(tmp_path, members, error, said):
    tars = [tar_of(tmp_path / f"00000{number}.tar", *members) for number in range(2)]
    with pytest.raises(error, match=said):
        TarMembers(tars, per_class=True)


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize(
    ("folders", "ending", "content"),
    [
        (("000", "001"), "json", b'{"class_id": 1}'),
        (("part0", "part1"), "txt", b"1"),
        (("train/0", "train/1"), "label", b"1"),
        (("x", "y"), "target.pth", b"1"),
    ],
)
def test_neither_is_the_folder_of_a_part_of_a_shard(tmp_path, folders, ending, content, per_class):
    members = [
        [
            part
            for number in range(2)
            for part in (f"{each}/{number}.jpg", (f"{each}/{number}.{ending}", content))
        ]
        for each in folders
    ]
    said = rf"{folders[0]}/0\.{ending} belongs to an image.* of a shard is not a class, nor a folder"
    with pytest.raises(RecipeError, match=said):
        TarMembers(
            [tar_of(tmp_path / f"0{number}.tar", *each) for number, each in enumerate(members)],
            per_class=per_class,
        )
    with pytest.raises(RecipeError, match=said):
        TarMembers([tar_of(tmp_path / "train.tar", *members[0], *members[1])], per_class=per_class)


def test_boxes_beside_images_in_class_folders_are_no_labels(tmp_path):
    members = [part for each in ("ant/1", "bee/1") for part in (f"{each}.jpg", (f"{each}.xml", b"<box/>"))]
    assert TarMembers([tar_of(tmp_path / "train.tar", *members)]).classes == ["ant", "bee"]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("x.cls", b"3"), ("x.json", b'{"label": 5}')], "3 in x.cls and 5 in x.json"),
        ([("x.json", b'{"label": 5, "cls": 1}')], "5 in x.json and 1 in x.json"),
        ([("x.cls", b"1"), ("x.CLS", b"2")], "1 in x.cls and 2 in x.CLS"),
        ([("x.cls", b"ant"), ("x.json", b'"bee"')], "ant in x.cls and bee in x.json"),
    ],
)
def test_two_labels_of_a_sample_are_rejected(tmp_path, members, said):
    with pytest.raises(DataError, match=rf"the sample of x\.\w+ has two labels, {said}"):
        TarMembers([tar_of(tmp_path / "0.tar", "x.jpg", *members)])


@pytest.mark.parametrize(
    "parts",
    [
        [("x.cls", b"\xef\xbb\xbf3.0"), ("x.json", b'{"label": "ant", "cls": 3}')],
        [("x.cls", b"ant"), ("x.json", b'{"label": 3}')],
        [("x.json", b'{"label": "ant", "cls": 3}')],
        [("x.json", b'{"label": 3, "cls": "ant"}')],
        [("x.cls", b"003"), ("x.json", b'{"label": 3, "cls": "3.0"}')],
    ],
)
def test_a_name_beside_the_number_of_a_class_is_no_second_label(tmp_path, parts):
    found = TarMembers([tar_of(tmp_path / "0.tar", "x.jpg", *parts)])
    assert (read_back(found), found.classes) == ([("x.jpg", 3)], None)


def test_a_name_written_with_composed_and_decomposed_accents_is_one_label(tmp_path):
    parts = [("x.cls", "caf\u00e9".encode()), ("x.json", '{"label": "cafe\u0301"}'.encode())]
    found = TarMembers([tar_of(tmp_path / "0.tar", "x.jpg", *parts)])
    assert (read_back(found), found.classes) == ([("x.jpg", 0)], ["caf\u00e9"])


def test_digits_among_names_have_a_note(tmp_path):
    """Names of digits and letters are read; what was meant as a number, or as several, is counted."""
    members = ["x.jpg", ("x.cls", b"0"), "y.jpg", ("y.cls", b"A"), "z.jpg", ("z.cls", b"0 1")]
    found = TarMembers([tar_of(tmp_path / "0.tar", *members)])
    assert found.classes == ["0", "0 1", "A"]
    assert notes(found) == {
        "with a label of digits, taken for a name as others are none": (2, ("x.jpg", "z.jpg"))
    }


def test_keys_that_come_in_two_shards_are_counted(tmp_path):
    tars = [tar_of(tmp_path / f"{number}.tar", "x.jpg", ("x.cls", b"0")) for number in range(2)]
    found = TarMembers(tars)
    assert len(found) == 2
    assert notes(found) == {"named alike in two tar files, which both count": (1, ("x.jpg",))}


def test_labels_that_number_no_classes_are_named(tmp_path):
    for number, labels in enumerate(([-1, -1], [2**40, 0], [10**9, 0])):
        root = tmp_path / f"{number}"
        for split in ("train", "validation"):
            rows(root / f"{split}.parquet", labels)
        with pytest.raises(RecipeError, match=r"no labels but -1|Labels number the classes, from 0 to below"):
            dataset_index(config(root))
    rows(tmp_path / "train.parquet", [1, 3, -1])
    rows(tmp_path / "validation.parquet", [-1])
    found = dataset_index(config(tmp_path))
    assert list(map(str, found.train.notes))[-2:] == [
        "2 classes without an image: 0, 2",
        "1 with a label that is none of the classes, an error where they are read: train.parquet:1:0",
    ]
    assert str(found.validation) == "1 images, none with a class"


@pytest.mark.parametrize("listed", ["", "dog ant bee cat", "bee dog"])
@pytest.mark.parametrize("unknown", [-1, 3, 5])
def test_a_label_that_is_no_class_becomes_none_of_another_numbering(tmp_path, listed, unknown):
    """Test splits without labels have -1. The classes are renumbered by a list of the user's, by those of the
    training split, and by those of the first file.
    """
    rows(tmp_path / "train.parquet", [0, 1, 2], names=["ant", "bee", "dog"])
    for number, names in enumerate((["bee", "ant", "dog"], ["dog", "ant", "bee"])):
        rows(tmp_path / f"validation-{number}.parquet", [0, unknown], names=names)
    (tmp_path / "classes.txt").write_text(listed.replace(" ", "\n"))
    there = config(tmp_path, classes=str(tmp_path / "classes.txt") if listed else "")
    source = open_source(there, train=False, seed=0)
    found = {source.container.name(row)[len(f"{tmp_path}/") :]: row for row in range(len(source))}
    labels = {name[:12]: [] for name in found}
    for name, row in found.items():
        label = source.container.labels[row]
        labels[name[:12]].append(source.container.classes[label] if label >= 0 else "none")
    assert labels == {"validation-0": ["bee", "none"], "validation-1": ["dog", "none"]}
    assert str(dataset_index(there).validation.notes[-1]).startswith("2 with a label that is none of the")
    with pytest.raises(DataError, match=r"row 1 .*: label -1, but there are"):
        source.decode(1)


def test_names_on_one_side_and_numbers_on_the_other_are_rejected(tmp_path):
    rows(tmp_path / "train.parquet", ["ant", "bee"])
    rows(tmp_path / "validation.parquet", [0, 1])
    with pytest.raises(
        RecipeError, match="classes of the training images have names, those of the validation"
    ):
        dataset_index(config(tmp_path))


def test_json_beside_images_in_class_folders_is_no_label(tmp_path):
    found = TarMembers(
        [tar_of(tmp_path / "train.tar", "ant/1.jpg", ("ant/1.json", b'{"width": 3}'), "bee/1.jpg")]
    )
    assert found.classes == ["ant", "bee"]


# Parquet


def rows(path: Path, labels, *, names: list[str] | None = None, column: str = "label", **columns) -> Path:
    table = pa.table({**columns, "image": [{"bytes": PHOTO, "path": "x.png"}] * len(labels), column: labels})
    if names:
        features = {column: {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


def test_the_label_of_a_parquet_file_is_found_by_its_name(tmp_path):
    noise = dict(image_id=[7, 8, 9], __index_level_0__=[5, 5, 5])
    found = ParquetRows([rows(tmp_path / "a.parquet", ["dog", "cat", "dog"], **noise)])
    assert (found.classes, found.labels.tolist()) == (["cat", "dog"], [1, 0, 1])
    dictionary = pa.array(["dog", "cat", "dog"]).dictionary_encode()
    assert ParquetRows([rows(tmp_path / "b.parquet", dictionary, **noise)]).labels.tolist() == [1, 0, 1]
    assert ParquetRows([rows(tmp_path / "c.parquet", [2, 0, 1], **noise)]).labels.tolist() == [2, 0, 1]
    typed = rows(tmp_path / "d.parquet", [1, 0, 1], column="breed", names=["pug", "lab"], **noise)
    assert ParquetRows([typed]).classes == ["pug", "lab"]
    with pytest.raises(
        RecipeError, match=r"columns image_id .*One column of encoded images and one of class numbers"
    ):
        ParquetRows([rows(tmp_path / "e.parquet", [1, 0, 1], column="breed", **noise)])


@pytest.mark.parametrize(
    ("column", "labels", "kind"),
    [
        ("label", [[0], [1], [0]], "list<"),
        ("Labels", [{"id": 0}, {"id": 1}, {"id": 0}], "struct<id"),
        ("target", pa.array([1, 0, 1], pa.decimal128(3)), "decimal128"),
        ("LABEL", [b"ant", b"bee", b"ant"], "binary"),
    ],
)
def test_a_column_of_classes_that_cannot_be_read_is_not_passed_over(tmp_path, column, labels, kind):
    path = tmp_path / "a.parquet"
    table = pa.table({"image": [{"bytes": PHOTO}] * 3, column: labels, "target_": [7, 7, 7]})
    pq.write_table(table.rename_columns({"target_": "target" if column != "target" else "breed"}), path)
    said = f"the column {column} is of the type {kind}" if kind != "binary" else "One column of encoded"
    with pytest.raises(RecipeError, match=said):
        ParquetRows([path])


@pytest.mark.parametrize("column", ["label", "Label", "FINE_LABEL"])
@pytest.mark.parametrize("kind", [pa.float64(), pa.float16(), pa.bool_(), pa.uint8()])
def test_classes_are_read_from_any_type_of_number_and_in_any_case(tmp_path, column, kind):
    labels = pa.array([1, 0, 1]).cast(kind)
    found = ParquetRows([rows(tmp_path / "a.parquet", labels, column=column, **{"class": [7, 7, 7]})])
    assert (found.labels.tolist(), found.classes) == ([1, 0, 1], None)
    assert notes(found) == {f"left out, other columns of classes beside {column}": (1, ("class",))}


def test_of_two_spellings_the_usual_one_counts_and_the_other_is_named(tmp_path):
    found = ParquetRows([rows(tmp_path / "a.parquet", [1, 0], Label=[7, 7], Target=[[0], [1]])])
    assert found.labels.tolist() == [1, 0]
    assert notes(found) == {"left out, other columns of classes beside label": (2, ("Label", "Target"))}


@pytest.mark.parametrize("wrong", [0.5, float("nan"), float("inf"), 2.0**60])
def test_a_number_that_is_no_class_is_named(tmp_path, wrong):
    path = rows(tmp_path / "a.parquet", [1.0, 0.0, wrong], target=[7, 7, 7])
    with pytest.raises(DataError, match=rf"row group 1 has {re.escape(str(wrong))} as label; labels number"):
        ParquetRows([path])


def test_other_columns_of_classes_are_named(tmp_path):
    """CIFAR-100 as it is published has both; with the types of `datasets` any name is known."""
    both = rows(tmp_path / "a.parquet", [1, 0], column="fine_label", coarse_label=[0, 0])
    assert notes(ParquetRows([both])) == {
        "left out, other columns of classes beside fine_label": (1, ("coarse_label",))
    }
    features = {name: {"names": ["a", "b"], "_type": "ClassLabel"} for name in ("label", "colour")}
    table = pq.read_table(rows(tmp_path / "b.parquet", [1, 0], colour=[0, 1]))
    noted = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(noted), tmp_path / "b.parquet")
    found = notes(ParquetRows([tmp_path / "b.parquet"]))
    assert found == {"left out, other columns of classes beside label": (1, ("colour",))}


def test_a_label_beyond_64_bits_is_named(tmp_path):
    path = rows(tmp_path / "a.parquet", pa.array([0, 1, 2**63 + 7], pa.uint64()))
    with pytest.raises(DataError, match=r"a\.parquet: row group 1 has 9223372036854775815 as label"):
        ParquetRows([path])


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": "x.png"}])
def test_rows_without_an_image_are_noted(image, tmp_path):
    photo = {"bytes": PHOTO, "path": "x.png"}
    pq.write_table(
        pa.table({"image": [photo, photo, image], "label": [0, 1, 1]}),
        tmp_path / "a.parquet",
        row_group_size=2,
    )
    what = "row groups with a row without an image, an error where it is read"
    assert notes(ParquetRows([tmp_path / "a.parquet"])) == {what: (1, ("a.parquet:1",))}
    pq.write_table(pa.table({"image": pa.array([PHOTO, None]), "label": [0, 1]}), tmp_path / "b.parquet")
    assert notes(ParquetRows([tmp_path / "b.parquet"])) == {what: (1, ("b.parquet:0",))}


@pytest.mark.parametrize("kind", ["string_view", "large_string"])
@pytest.mark.parametrize("encoding", ["binary_view", "large_binary", "fixed"])
def test_columns_of_every_type_of_text_and_bytes_are_read(tmp_path, kind, encoding):
    photos = pa.array([PHOTO] * 2, pa.binary(len(PHOTO)) if encoding == "fixed" else getattr(pa, encoding)())
    table = pa.table({"image": photos, "label": pa.array(["dog", "cat"], getattr(pa, kind)())})
    pq.write_table(table, tmp_path / "a.parquet")
    found = ParquetRows([tmp_path / "a.parquet"])
    assert (found.classes, found.labels.tolist(), found.read(1)) == (["cat", "dog"], [1, 0], PHOTO)


def test_of_several_columns_the_types_decide_and_others_are_named(tmp_path):
    found = ParquetRows(
        [rows(tmp_path / "a.parquet", [0, 1], names=["b", "a"], hash=[b"x", b"y"], target=[5, 5])]
    )
    assert (found.read(0), found.labels.tolist()) == (PHOTO, [0, 1])
    assert notes(found) == {"left out, other columns of classes beside label": (1, ("target",))}
    with pytest.raises(RecipeError, match="a class is named twice in a, a"):
        ParquetRows([rows(tmp_path / "b.parquet", [0, 1], names=["a", "a"])])
    twice = pa.Table.from_arrays(
        [pa.array([PHOTO]), pa.array([0]), pa.array([1])], ["image", "label", "label"]
    )
    pq.write_table(twice, tmp_path / "c.parquet")
    with pytest.raises(RecipeError, match=r"label \(int64\), label \(int64\).*no name twice"):
        ParquetRows([tmp_path / "c.parquet"])


def test_shards_with_their_classes_in_another_order_are_numbered_by_name(tmp_path):
    first = rows(tmp_path / "a.parquet", [0, 1], names=["cat", "dog"])
    second = rows(tmp_path / "b.parquet", [0, 1, 1], names=["dog", "cat"])
    found = ParquetRows([first, second])
    assert (found.classes, found.labels.tolist()) == (["cat", "dog"], [0, 1, 1, 0, 0])
    assert notes(found) == {
        "files with the class names in another order, numbered by name": (1, ("b.parquet",))
    }
    for number, other in enumerate(
        (dict(names=["dog", "cow"]), dict(names=["cat", "dog", "cow"]), dict(), dict(names=["dog", "dog"]))
    ):
        path = rows(tmp_path / f"{number}.parquet", [0, 1], **other)
        with pytest.raises(
            RecipeError, match=rf"{number}\.parquet: its classes are not those of .*a\.parquet"
        ):
            ParquetRows([first, path])
    with pytest.raises(RecipeError, match="are these files of one data set"):
        ParquetRows([first, rows(tmp_path / "g.parquet", [0], column="cls")])


def test_a_parquet_fingerprint_knows_labels_and_bytes(tmp_path):
    paths = [
        rows(tmp_path / "one.parquet", [0, 1]), rows(tmp_path / "two.parquet", [1, 0]),
        rows(tmp_path / "three.parquet", [0, 1], more=["x" * 100, "y"]),
    ]  # fmt: skip
    seen = set()
    for path in paths:
        for split in ("train", "validation"):
            (tmp_path / f"{split}-0.parquet").write_bytes(path.read_bytes())
        _open_splits.cache_clear()
        seen.add(dataset_index(config(tmp_path)).fingerprint)
    assert len(seen) == 3


# Places


def test_two_layouts_in_one_place_are_named(tmp_path):
    write_folder(tmp_path)
    tar_of(tmp_path / "train.tar", "ant/a.png")
    with pytest.raises(
        RecipeError, match=r"two layouts in one place, tar \(.*train\.tar\) and folder \(.*train\)"
    ):
        dataset_info(config(tmp_path))
    assert dataset_info(config(tmp_path, format="folder")).train_examples == 8


def test_a_split_in_two_places_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    tar_of(tmp_path / "train.tar", "ant/a.png")
    tar_of(tmp_path / "train/ant.tar", "a.png")
    with pytest.raises(RecipeError, match=r"the split is there twice, .*train\.tar and .*ant\.tar"):
        dataset_info(config(tmp_path))


def test_shards_of_two_generations_and_missing_shards_are_named(tmp_path):
    for number in range(2):
        rows(tmp_path / f"train-{number:05}-of-00002.parquet", [0, 1])
        rows(tmp_path / f"validation-{number:05}-of-00002.parquet", [0, 1])
    assert dataset_info(config(tmp_path)).train_examples == 4
    rows(tmp_path / "train-00000-of-00004.parquet", [0, 1])
    _open_splits.cache_clear()
    with pytest.raises(
        RecipeError, match=r"-of-00004\.parquet and .*-of-00002\.parquet are of two generations"
    ):
        dataset_info(config(tmp_path))
    (tmp_path / "train-00000-of-00004.parquet").unlink()
    (tmp_path / "validation-00000-of-00002.parquet").unlink()
    with pytest.raises(RecipeError, match="1 of 2 shards are there; the first that is missing has number 0"):
        dataset_info(config(tmp_path))
    assert np.array_equal(ParquetRows([tmp_path / "train-00000-of-00002.parquet"]).labels, [0, 1])
