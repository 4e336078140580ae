"""Photos in folders, tar files and parquet files: the same bytes give the same batches; views against
torchvision's transforms.
"""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from lbtrain.data import batches, dataset_info, index_cache, open_source, tar
from lbtrain.data.augment import draws, fractions
from lbtrain.data.decode import Box, Photo
from lbtrain.data.layouts import _open_splits
from lbtrain.data.stream import Block
from lbtrain.data.views import VIEWS, color_jitter, lighting, random_box
from lbtrain.errors import DataError, RecipeError
from lbtrain.recipe import DataConfig
from tests.photos import encoded, natural, write_folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    _open_splits.cache_clear()


def config(root: Path, **changes) -> DataConfig:
    return DataConfig(
        **(dict(name="imagefolder", root=str(root), augmentation="imagenet", image_size=32) | changes)
    )


def block(*indices: int, epoch: int = 0) -> Block:
    return Block(np.full(len(indices), epoch), np.array(indices))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"))


def members(root: Path, split: str) -> list[Path]:
    return [path for path in sorted((root / split).rglob("*")) if path.is_file()]


def as_one_tar(folder: Path, root: Path) -> None:
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as file:
            for path in reversed(members(folder, split)):
                file.add(path, path.relative_to(folder))


def as_a_tar_per_class(folder: Path, root: Path) -> None:
    for split in ("train", "val"):
        (root / split).mkdir()
        for group in (folder / split).iterdir():
            with tarfile.open(root / split / f"{group.name}.tar", "w") as file:
                for path in group.iterdir():
                    file.add(path, path.name)


def as_shards(folder: Path, root: Path) -> None:
    for split in ("train", "val"):
        found = members(folder, split)
        for number in range(3):
            with tarfile.open(root / f"{split}-{number:05}.tar", "w", format=tarfile.PAX_FORMAT) as file:
                for path in found[number::3]:
                    file.add(path, f"./{path.relative_to(folder / split)}")


def as_parquet(folder: Path, root: Path, *, struct: bool = True) -> None:
    (root / "data").mkdir()
    for split, name in (("train", "train"), ("val", "validation")):
        found = members(folder, split)
        classes = sorted({path.parent.name for path in members(folder, "train")})
        for shard, part in enumerate((found[:3], found[3:])):
            images = [
                {"bytes": path.read_bytes(), "path": path.name} if struct else path.read_bytes()
                for path in part
            ]
            table = pa.table({"image": images, "label": [classes.index(path.parent.name) for path in part]})
            notes = {
                "huggingface": json.dumps(
                    {"info": {"features": {"label": {"names": classes, "_type": "ClassLabel"}}}}
                )
            }
            pq.write_table(
                table.replace_schema_metadata(notes),
                root / "data" / f"{name}-{shard:05}.parquet",
                row_group_size=2,
            )


LAYOUTS = {
    "tar": as_one_tar,
    "tar per class": as_a_tar_per_class,
    "tar shards": as_shards,
    "parquet": as_parquet,
    "parquet of plain bytes": lambda folder, root: as_parquet(folder, root, struct=False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("named", [True, False])
def test_the_same_photos_give_the_same_batches_in_every_layout(tmp_path, folder, layout, named):
    LAYOUTS[layout](folder, tmp_path)
    form = layout.split()[0] if named else "auto"
    assert dataset_info(config(tmp_path, format=form)) == dataset_info(config(folder))
    for train in (True, False):
        ours = open_source(config(tmp_path, format=form), train=train, seed=3)
        theirs = open_source(config(folder, format="folder"), train=train, seed=3)
        assert len(ours) == len(theirs) == (8 if train else 5)
        for epoch in range(2):
            everything = block(*range(len(theirs)), epoch=epoch)
            assert all(map(torch.equal, ours.fetch(everything), theirs.fetch(everything)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_workers_and_copies_of_a_source_read_the_same(tmp_path, folder, layout):
    LAYOUTS[layout](folder, tmp_path)
    source = open_source(config(tmp_path), train=True, seed=3)
    expected = source.fetch(block(4, 1, 2, 0, 7, 6))[
        0
    ]  # opens files in this process, whose copies the workers must not use
    for other, workers in ((source, 2), (pickle.loads(pickle.dumps(source)), 0)):
        loaded = list(batches(other, [block(4, 1), block(2, 0), block(7, 6)], workers=workers, device=CPU))
        assert torch.equal(torch.cat([images for images, _ in loaded]), expected)


def test_the_validation_half_has_the_labels_of_the_training_half(tmp_path, folder):
    """ants have no image in val, so that timm alone would number the bees 0."""
    for split, groups in (("train", ("ant", "bee", "cat")), ("val", ("bee", "cat"))):
        for number, group in enumerate(groups):
            (tmp_path / split / group).mkdir(parents=True)
            (tmp_path / split / group / "a.png").write_bytes(encoded(natural(number, 20, 20), "PNG"))
    assert open_source(config(tmp_path), train=False, seed=0).fetch(block(0, 1))[1].tolist() == [1, 2]


def test_a_class_without_training_images_is_the_users_error(tmp_path):
    for name in ("train/cat", "val/cat", "val/dog"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(encoded(natural(0, 20, 20), "PNG"))
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(RecipeError, match="classes dog are in val but have no images in train"):
        dataset_info(config(tmp_path))


def test_another_number_of_images_than_imagenet_has_is_said(folder):
    with pytest.raises(
        RecipeError,
        match=r"8 training images of 2 classes, but imagenet has 1,281,167 of 1000.*data\.name=imagefolder",
    ):
        open_source(config(folder, name="imagenet"), train=True, seed=0)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (
            "zip",
            r"data\.format=zip: not a layout known.*root/train\.tar.*root/train-\*\.parquet.*timm:hfds/NAME",
        ),
        ("tar", r"no training images in it, data\.format=tar\. Known layouts"),
        ("parquet", r"no training images in it, data\.format=parquet\. Known layouts"),
        ("timm:wds/x", "only timm's hfds readers give samples in any order"),
        ("timm:", "only timm's hfds readers"),
    ],
)
def test_a_format_that_cannot_be_names_the_layouts(folder, form, said):
    with pytest.raises(RecipeError, match=f"(?s){said}"):
        dataset_info(config(folder, format=form))


def test_huggingface_data_sets_through_timm(tmp_path):
    try:
        import datasets  # noqa: F401
    except ImportError:
        with pytest.raises(RecipeError, match="needs the package datasets: pip install datasets"):
            dataset_info(config(tmp_path, format="timm:hfds/some/name"))
    else:
        with pytest.raises(RecipeError, match=r"data\.format=timm:hfds/some/name"):
            dataset_info(config(tmp_path, format="timm:hfds/some/name"))


@pytest.mark.parametrize(
    ("name", "augmentation"), [("digits", "imagenet"), ("synthetic", "none"), ("imagefolder", "crop_flip")]
)
def test_an_augmentation_for_other_images_is_rejected_or_has_no_effect(folder, name, augmentation):
    wanted = DataConfig(
        name=name, root=str(folder), augmentation=augmentation, image_size=8 if name == "synthetic" else 0
    )
    if name == "synthetic":
        open_source(wanted, train=True, seed=0)
    else:
        with pytest.raises(
            RecipeError,
            match=f"data.augmentation={augmentation}.*(takes none or crop_flip|takes none, imagenet)",
        ):
            open_source(wanted, train=True, seed=0)


def test_small_images_keep_their_size():
    with pytest.raises(RecipeError, match=r"data\.image_size=16: the images of digits have 8 pixels a side"):
        open_source(DataConfig(image_size=16), train=True, seed=0)


def test_a_tar_is_scanned_once_and_again_when_it_has_changed(tmp_path, folder, monkeypatch):
    scans = []
    monkeypatch.setattr(tar, "scan", lambda *args, scan=tar.scan: scans.append(args) or scan(*args))
    as_one_tar(folder, tmp_path)
    first = tar.TarMembers([tmp_path / "train.tar"])
    again = tar.TarMembers([tmp_path / "train.tar"])
    assert len(scans) == 1
    assert [again.read(number) for number in range(8)] == [first.read(number) for number in range(8)]
    assert [again.name(number) for number in range(8)] == [first.name(number) for number in range(8)]
    with tarfile.open(tmp_path / "train.tar", "a") as file:
        file.add(members(folder, "val")[0], "train/ant/new.jpg")
    assert len(tar.TarMembers([tmp_path / "train.tar"])) == 9
    assert len(scans) == 2


def test_a_damaged_index_is_made_anew_and_a_place_that_cannot_be_written_is_none(
    tmp_path, folder, monkeypatch
):
    as_one_tar(folder, tmp_path)
    tar.TarMembers([tmp_path / "train.tar"])
    path = index_cache.cache_file([tmp_path / "train.tar"])
    for damage in (b"", path.read_bytes()[:-50], b"PK\x03\x04" + bytes(40)):
        path.write_bytes(damage)
        assert len(tar.TarMembers([tmp_path / "train.tar"])) == 8
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(tar.TarMembers([tmp_path / "train.tar"])) == 8


def test_a_compressed_a_damaged_and_an_empty_tar_are_the_users_error(tmp_path, folder):
    as_one_tar(folder, tmp_path)
    whole = (tmp_path / "train.tar").read_bytes()
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as file:
        file.add(folder, "x")
    (tmp_path / "cut.tar").write_bytes(whole[:300])
    (tmp_path / "text.tar").write_text("no tar")
    tarfile.open(tmp_path / "empty.tar", "w").close()
    for name, said in (
        ("zipped", "not a plain, whole tar"),
        ("cut", "not a plain, whole"),
        ("text", "not a plain"),
        ("empty", "no images"),
    ):
        with pytest.raises(RecipeError, match=rf"{name}\.tar.*{said}"):
            tar.TarMembers([tmp_path / f"{name}.tar"])


def test_a_long_scan_says_how_far_it_is(tmp_path, folder, monkeypatch, capsys):
    as_one_tar(folder, tmp_path)
    monkeypatch.setattr("lbtrain.data.progress.SECONDS_BETWEEN_LINES", 0.0)
    tar.TarMembers([tmp_path / "train.tar"])
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 8 and lines[-1].startswith(f"indexing {tmp_path}: ") and lines[-1].endswith(" s left")
    )


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"image": [b"x"], "name": ["a"]},
            r"columns image .binary., name .string.\. One column of encoded images",
        ),
        ({"label": [1]}, "One column of encoded images"),
        ({"image": [[0, 1]], "thumbnail": [b"x"], "label": [1]}, "the column image is of the type list"),
        ({"Photo": ["a.jpg"], "mask": [b"x"], "label": [1]}, "the column Photo is of the type string"),
        ({"image": [b"x", b"y"], "label": [1, None]}, "1 rows of row group 0 have no label"),
    ],
)
def test_a_parquet_file_without_images_or_labels_is_the_users_error(tmp_path, columns, said):
    pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")
    with pytest.raises((RecipeError, DataError), match=said):
        dataset_info(config(tmp_path))


def test_a_damaged_parquet_file_is_the_users_error(tmp_path):
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a whole parquet file"):
        dataset_info(config(tmp_path))


def test_row_groups_are_read_when_asked_for_and_only_some_are_kept(tmp_path, folder):
    as_parquet(folder, tmp_path)
    rows = open_source(config(tmp_path), train=True, seed=0).container
    order, found = (7, 0, 5, 3, 7, 2), members(folder, "train")
    assert [rows.read(index) for index in order] == [found[index].read_bytes() for index in order]
    assert len(rows._kept) == 4
    assert rows.name(4).endswith("train-00001.parquet: row 1 of row group 0")


# Views


def numbers(count: int, epoch: int = 0, index: int = 0) -> list[float]:
    return fractions(draws(Block(np.array([epoch]), np.array([index])), 5, count))[:, 0].tolist()


def test_a_random_box_by_hand():
    """Half the area, square: sqrt(0.5 * 100 * 200) = 100 a side, somewhere."""
    assert random_box(100, 200, [0.42 / 0.92, 0.5, 0.99, 0.5]) == Box(0, 50, 100, 100)
    assert random_box(300, 200, [0.0, 0.0, 0.0, 0.999]) == Box(
        0, 140, 80, 60
    )  # 8 %: 4800 = 80 x 60, as narrow as allowed


@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 10_000))
def test_random_boxes_lie_in_the_photo(height, width, index):
    box = random_box(height, width, numbers(40, index=index))
    assert 0 <= box.top <= box.top + box.height <= height and 0 <= box.left <= box.left + box.width <= width
    assert box.height >= 1 and box.width >= 1


def test_boxes_are_spread_as_torchvisions():
    from torchvision.transforms import RandomResizedCrop

    given_draws = fractions(draws(block(*range(4000)), 5, 40)).T.tolist()
    ours = np.array([random_box(375, 500, row) for row in given_draws])
    torch.manual_seed(0)
    theirs = np.array(
        [
            RandomResizedCrop.get_params(torch.empty(3, 375, 500), [0.08, 1.0], [3 / 4, 4 / 3])
            for _ in range(4000)
        ]
    )
    for share in (
        0.1,
        0.5,
        0.9,
    ):  # quantiles of 4,000 samples of a spread of about 100 pixels: a standard error of about 3
        np.testing.assert_allclose(
            np.quantile(ours, share, axis=0), np.quantile(theirs, share, axis=0), atol=14
        )


def mean_difference(ours: torch.Tensor, theirs: Image.Image) -> float:
    return float((ours.float() - tv.pil_to_tensor(theirs).float()).abs().mean())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("quality", [75, 95])
def test_the_imagenet_view_is_torchvisions_crop_within_a_level(kind, quality):
    data = encoded(natural(1, 260, 330), kind, quality=quality)
    for index in range(10):
        flip, *rest = given_draws = numbers(41, index=index)
        expected = tv.resized_crop(
            Image.open(io.BytesIO(data)), *random_box(260, 330, rest), [224, 224], InterpolationMode.BILINEAR
        )
        expected = tv.hflip(expected) if flip < 0.5 else expected
        seen = VIEWS["imagenet"].look(Photo(data), given_draws, 224)
        assert seen.dtype == torch.uint8 and mean_difference(seen, expected) < 0.3


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_large_photo_decoded_at_part_of_its_size_shows_the_same(scale):
    data, side = encoded(natural(2, 64 * scale + 37, 64 * scale + 91), "JPEG", quality=92), 64 * scale
    photo, box = Photo(data), Box(24, 56, side, side)
    decoded = []
    photo._decoded = lambda scale, of=photo._decoded: decoded.append(scale) or of(scale)
    expected = tv.resized_crop(Image.open(io.BytesIO(data)), *box, [64, 64], InterpolationMode.BILINEAR)
    assert mean_difference(photo.crop(box, 64, 64), expected) < 2.5
    assert decoded == [scale]
    shifted = tv.resized_crop(
        Image.open(io.BytesIO(data)), *box._replace(left=56 + scale), [64, 64], InterpolationMode.BILINEAR
    )
    assert mean_difference(photo.crop(box, 64, 64), shifted) > 2 * mean_difference(
        photo.crop(box, 64, 64), expected
    )


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (256, 256), (100, 120)])
def test_scoring_is_torchvisions_resize_and_centre_crop_within_a_level(height, width):
    data = encoded(natural(3, height, width), "PNG")
    expected = tv.center_crop(
        tv.resize(Image.open(io.BytesIO(data)), 256, InterpolationMode.BILINEAR), [224, 224]
    )
    assert mean_difference(VIEWS["none"].look(Photo(data), [], 224), expected) < 0.3


def test_the_alexnet_view_is_a_part_of_the_central_square():
    data = encoded(natural(4, 300, 400), "PNG")
    square = tv.center_crop(
        tv.resize(Image.open(io.BytesIO(data)), 256, InterpolationMode.BILINEAR), [256, 256]
    )
    for flip, down, across in ((0.6, 0.0, 0.0), (0.6, 0.999, 0.999), (0.4, 0.5, 0.0)):
        top, left = int(down * 30), int(across * 30)
        expected = tv.crop(square, top, left, 227, 227)
        expected = tv.hflip(expected) if flip < 0.5 else expected
        assert (
            mean_difference(
                VIEWS["alexnet"].look(Photo(data), [flip, down, across], 227, 227 / 256), expected
            )
            < 0.3
        )


def test_color_jitter_by_hand_and_in_all_six_orders():
    pixels = torch.tensor([200.0, 100.0, 50.0]).view(3, 1, 1).expand(3, 2, 2) * torch.tensor(
        [[1.0, 0.5], [0.2, 1.0]]
    )
    assert torch.allclose(color_jitter(pixels, [0.0, 1.0, 0.5, 0.5]), pixels * 1.4)
    grey = 0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    assert torch.allclose(color_jitter(pixels, [0.0, 0.5, 0.0, 0.5]), 0.6 * pixels + 0.4 * grey.mean())
    assert torch.allclose(color_jitter(pixels, [0.0, 0.5, 0.5, 0.0]), 0.6 * pixels + 0.4 * grey)
    results = [color_jitter(pixels, [(order + 0.5) / 6, 0.9, 0.1, 0.8]) for order in range(6)]
    # Saturation keeps the mean of grey, so that it commutes with both others; contrast and brightness do not
    # add up alike.
    assert all(
        torch.allclose(torch.tensor([0.299, 0.587, 0.114]) @ r.mean((1, 2)), grey.mean() * 1.32, rtol=1e-4)
        for r in results
    )


def test_lighting_adds_one_color_of_the_right_spread():
    found = torch.stack([lighting(torch.zeros(3, 2, 2), numbers(6, index=index)) for index in range(4000)])
    assert torch.equal(found[:, :, 0, 0], found[:, :, 1, 1])
    spread = found[:, :, 0, 0].std(0) / 255
    vectors = torch.tensor(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    expected = (vectors.square() @ (0.1 * torch.tensor([0.2175, 0.0188, 0.0045])).square()).sqrt()
    assert torch.allclose(spread, expected, rtol=0.06) and torch.all(
        found[:, :, 0, 0].mean(0).abs() / 255 < 0.002
    )


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_has_its_size_and_its_draws(name):
    view = VIEWS[name]
    photo = Photo(encoded(natural(5, 90, 140), "JPEG"))
    first, second = (view.look(photo, numbers(view.draws, epoch=epoch), 48) for epoch in (0, 1))
    assert first.shape == (3, 48, 48)
    assert torch.equal(first, second) == (view.draws == 0)


def test_boxes_never_change():
    """A release with other boxes would change every run on photos: this row may only change with a note to
    users.
    """
    assert random_box(375, 500, numbers(40, epoch=1, index=2)) == Box(1, 142, 277, 319)


def test_views_do_not_look_beyond_the_middle_of_a_strip(tmp_path):
    seen = VIEWS["none"].look(Photo(encoded(natural(6, 3, 5000), "PNG")), [], 224)
    assert seen.shape == (3, 224, 224)


def test_the_environment_may_say_where_indexes_are_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert index_cache.cache_file([tmp_path / "a.tar"]).parent == Path(
        os.path.expanduser("~/.cache/lbtrain/index")
    )


@pytest.mark.parametrize("size", [16, 32, 48])
def test_resized_photos_are_those_of_a_data_set_of_that_size(folder, size):
    ours = open_source(config(folder), train=True, seed=3).sized(size).fetch(block(0, 2, 1, epoch=4))
    theirs = open_source(config(folder, image_size=size), train=True, seed=3).fetch(block(0, 2, 1, epoch=4))
    assert all(torch.equal(our, their) for our, their in zip(ours, theirs, strict=True))
