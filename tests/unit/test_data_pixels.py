"""What becomes of the pixels: formats by content, deep and odd modes, bounds, and the rules of each model."""

import dataclasses
import gzip
import io
import itertools
import math
import struct
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from lbtrain.data import open_source, views
from lbtrain.data.decode import Box, BrokenImage, Photo, whole_image
from lbtrain.data.formats import extensions, formats
from lbtrain.data.layouts import _open_splits
from lbtrain.data.pixels import PixelRules, notes_on_inputs, photo_rules
from lbtrain.data.views import VIEWS, side_before_crop
from lbtrain.errors import DataError, RecipeError
from lbtrain.recipe import DataConfig, Recipe
from lbtrain.tasks.classification import Classification
from lbtrain.tasks.weights import weights_rows
from lbtrain.techniques.absa import _pixel_range
from lbtrain.trained.eval import _as_trained
from lbtrain.trained.export import _crop_pct
from lbtrain.trained.model import TrainedModel
from tests.photos import encoded, natural, write_folder

RAMP = np.arange(0, 2**16, 16, dtype=np.uint16).reshape(64, 64)


@pytest.fixture(autouse=True)
def fresh():
    _open_splits.cache_clear()


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    photo = Photo(data)
    seen = (
        photo.crop(Box(0, 0, photo.height, photo.width), photo.height, photo.width).permute(1, 2, 0).numpy()
    )
    assert (seen == whole_image(data)).all()
    return seen


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_of_16_bit_grey_the_upper_eight_are_taken(kind):
    options = dict(irreversible=False) if kind == "JPEG2000" else {}
    seen = pixels(saved(Image.fromarray(RAMP), kind, **options))
    assert (seen == (RAMP >> 8).astype(np.uint8)[..., None]).all() and seen.max() == 255


def test_big_endian_16_bit_grey():
    assert (pixels(saved(Image.fromarray(RAMP.astype(">u2")), "TIFF"))[..., 0] == RAMP >> 8).all()


def tiff(packed: bytes, height: int, width: int, bits: int, black: int) -> bytes:
    """A grey TIFF of one strip, by hand. black: photometric interpretation, 1 where black is 0, 0 where white
    is.
    """
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, black)]
    entries += [(273, 4, 8 + 2 + 12 * 9 + 4), (277, 3, 1), (278, 4, height), (279, 4, len(packed))]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return head + table + bytes(4) + packed


@pytest.mark.parametrize("black", [0, 1])
def test_a_tiff_may_call_white_0_and_hold_12_bits(black):
    shown = (RAMP >> 8) if black else 255 - (RAMP >> 8)
    in_16 = tiff(RAMP.astype("<u2").tobytes(), *RAMP.shape, 16, black)
    assert (pixels(in_16)[..., 0] == shown).all()
    first, second = (RAMP.reshape(-1, 2) >> 4).astype(np.uint16).T
    triples = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8)
    if black:
        assert (pixels(tiff(triples.tobytes(), *RAMP.shape, 12, black))[..., 0] == shown).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_modes_without_a_range_are_named(dtype):
    data = saved(Image.fromarray(np.full((8, 8), 3, dtype)), "TIFF")
    with pytest.raises(BrokenImage, match=r"32 bits a pixel \(mode [IF]\) have no range to scale by"):
        pixels(data)


@pytest.mark.parametrize(
    "kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000", "PCX", "ICO", "QOI"]
)
def test_formats_are_decided_by_content(kind):
    image = Image.fromarray(natural(1, 48, 48)).quantize(64).convert("RGB")
    options = {
        "WEBP": dict(lossless=True),
        "ICO": dict(sizes=[(48, 48)]),
        "JPEG2000": dict(irreversible=False),
    }
    seen = pixels(saved(image, kind, **options.get(kind, {})))
    assert (seen == np.asarray(image)).all()


def test_the_endings_are_those_of_pillow_and_torchvision_without_programs_to_run():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert set(IMG_EXTENSIONS) | {".gif", ".jfif", ".jpe", ".avif", ".mpo"} <= extensions()
    assert not {".eps", ".ps", ".pdf", ".wmf", ".emf", ".mpg", ".txt"} & extensions()
    assert not {"EPS", "WMF", "PDF"} & set(formats())


@pytest.mark.parametrize(
    "head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"\xc5\xd0\xd3\xc6" + bytes(30)]
)
def test_postscript_is_not_run(tmp_path, monkeypatch, head):
    def run(*arguments, **options):
        raise AssertionError(f"started {arguments}")

    for name in ("run", "Popen", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, run)
    write_folder(tmp_path)
    (tmp_path / "train/ant/0.JPEG").write_bytes(head + b"showpage\n")
    source = open_source(
        DataConfig(name="imagefolder", root=str(tmp_path), image_size=16), train=True, seed=0
    )
    with pytest.raises(DataError, match=r"ant/0\.JPEG: cannot be read as an image \(PostScript is not read"):
        source.decode(0)


def test_the_first_picture_of_many_counts():
    frames = [Image.fromarray(natural(number, 20, 20)) for number in range(3)]
    for kind in ("TIFF", "PNG", "MPO"):
        seen = pixels(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert (seen == whole_image(saved(frames[0], "JPEG" if kind == "MPO" else kind))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_classifiers_see_photos_as_they_are_stored(orientation):
    """As torchvision's ImageFolder and timm show them, on which the published results were made."""
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.fromarray(natural(3, 40, 60))
    for kind in ("JPEG", "PNG"):
        assert (pixels(saved(image, kind, exif=exif)) == whole_image(saved(image, kind))).all()


# Bounds


def test_the_bound_of_pixels_has_a_key(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train/ant/0.JPEG").write_bytes(saved(Image.new("1", (1000, 1001)), "PNG"))
    for most, message in ((10**6, "1000 x 1001 pixels, more than data.max_pixels=1000000"), (1_001_000, "")):
        config = DataConfig(name="imagefolder", root=str(tmp_path), image_size=16, max_pixels=most)
        source = open_source(config, train=True, seed=0)
        if message:
            with pytest.raises(DataError, match=message):
                source.decode(0)
        else:
            source.decode(0)
    assert DataConfig().max_pixels < 13_000 * 13_000
    assert Recipe().with_overrides(["data.max_pixels=400000000"]).data.max_pixels == 400_000_000


def test_a_larger_bound_than_pillows_is_ours_alone():
    data, bound = saved(Image.new("1", (20_000, 10_000)), "PNG"), Image.MAX_IMAGE_PIXELS
    with pytest.raises(BrokenImage, match="decompression bomb"):
        Photo(data)
    assert Photo(data, max_pixels=3 * 10**8).width == 20_000 and bound == Image.MAX_IMAGE_PIXELS


def test_archives_that_unpack_to_too_much_are_named(tmp_path):
    np.savez_compressed(
        tmp_path / "train.npz", webp=np.zeros(10**6, np.uint8), offsets=[0, 9], labels=np.zeros(9)
    )
    config = DataConfig(name="cifar10", root=str(tmp_path), max_pixels=10**5)
    with pytest.raises(
        DataError, match=r"train\.npz: .*bytes when unpacked, more than 3 x data.max_pixels=100000"
    ):
        open_source(config, train=True, seed=0)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(10**6)))
    config = DataConfig(name="mnist", root=str(tmp_path), max_pixels=10**5)
    with pytest.raises(RecipeError, match=r"more than data.max_pixels=100000 bytes"):
        open_source(config, train=True, seed=0)


# Rules


def test_the_rules_are_the_models_own_the_recipes_or_imagenets():
    plain, config = PixelRules(), DataConfig(name="imagefolder")
    assert photo_rules(config, "") == photo_rules(config, "cifar_resnet8") == plain
    assert photo_rules(config, "vit_base_patch16_224") == PixelRules(
        (127.5,) * 3, (127.5,) * 3, 0.9, "bicubic"
    )
    said = DataConfig(
        name="imagefolder",
        mean=["0.1", "0.2", "0.3"],
        std=["1", "1", "1"],
        crop_share=0.8,
        interpolation="bilinear",
    )
    expected = PixelRules((25.5, 51.0, 76.5), (255.0,) * 3, 0.8, "bilinear")
    assert photo_rules(said, "vit_base_patch16_224") == photo_rules(said, "") == expected


@pytest.mark.parametrize(
    "words",
    [
        "data.mean=0.5",
        "data.mean=123,116,103",
        "data.std=a,b,c",
        "data.crop_share=1.5",
        "data.interpolation=lanczos",
    ],
)
def test_rules_that_cannot_be_are_rejected(tmp_path, words):
    write_folder(tmp_path)
    with pytest.raises(RecipeError, match=words.partition("=")[0].replace(".", r"\.")):
        recipe = Recipe().vary(data=dict(name="imagefolder", root=str(tmp_path))).with_overrides([words])
        open_source(recipe.data, train=True, seed=0)


def test_a_photo_is_normalised_cropped_and_resized_by_the_rules(tmp_path):
    write_folder(tmp_path)
    data = encoded(natural(5, 90, 120), "PNG")
    (tmp_path / "val/ant/0.JPEG").write_bytes(data)
    config = DataConfig(
        name="imagefolder",
        root=str(tmp_path),
        image_size=48,
        mean=["0.5"] * 3,
        std=["0.25"] * 3,
        crop_share=0.75,
        interpolation="bicubic",
    )
    source = open_source(config, train=False, seed=0)
    resized = tv.resize(Image.open(io.BytesIO(data)), 64, InterpolationMode.BICUBIC)
    expected = (tv.to_tensor(tv.center_crop(resized, [48, 48])) - 0.5) / 0.25
    pixels, _ = source._sample(0, [])
    assert float(((pixels - source.mean) / source.std - expected).abs().mean()) < 0.01
    own = open_source(
        DataConfig(name="imagefolder", root=str(tmp_path)), train=False, seed=0, model="vit_base_patch16_224"
    )
    assert own.mean.flatten().tolist() == own.std.flatten().tolist() == [127.5] * 3


@pytest.mark.parametrize("view", ["none", "alexnet"])
def test_a_share_that_was_rounded_loses_no_pixel(view, monkeypatch):
    """224 of 236 in twelve digits is 235.99999999990 the other way round; 0.9 is 248.9 and stays 248."""
    seen, resize = [], views._shorter_side
    monkeypatch.setattr(views, "_shorter_side", lambda photo, side: seen.append(side) or resize(photo, side))
    photo, look = Photo(encoded(natural(5, 300, 400), "JPEG")), VIEWS[view]
    for share in (0.949152542373, 0.9, 0.875):
        look.look(photo, [0.5] * look.draws, 224, share)
    assert seen == [236, 248, 256]


def test_a_share_and_the_one_that_is_exported_give_back_their_pixels():
    """timm takes the floor of size / crop_pct."""
    for size, side in itertools.product((160, 224, 288), range(160, 640)):
        if size <= side:
            for share in (size / side, round(size / side, 12)):
                assert side_before_crop(size, share) == side == math.floor(size / _crop_pct(size, share))


RA4 = "efficientnet_b0.ra4_e3600_r224_in1k"


@pytest.mark.parametrize(
    ("name", "weights", "found"),
    [
        ("efficientnet_b0", "ra4_e3600_r224_in1k", RA4),
        ("efficientnet_b0", RA4, RA4),
        ("efficientnet_b0.ra_in1k", "ra4_e3600_r224_in1k", RA4),
        ("efficientnet_b0.ra_in1k", "", "efficientnet_b0.ra_in1k"),
        ("efficientnet_b0", "runs/gone", "efficientnet_b0"),
        ("efficientnet_b0", "HERE", "efficientnet_b0"),
    ],
)
def test_a_tag_brings_the_pixels_that_it_was_trained_on(tmp_path, name, weights, found):
    """timm's default for efficientnet_b0 has ImageNet's mean, 0.875 and bicubic; ra4 has 0.5 and 0.9."""
    write_folder(tmp_path)
    model = dict(name=name, weights=weights.replace("HERE", str(tmp_path / "w.pt")))
    torch.save({}, tmp_path / "w.pt")
    recipe = Recipe().vary(model=model, data=dict(name="imagefolder", root=str(tmp_path), image_size=32))
    expected = photo_rules(recipe.data, found)
    assert (expected.mean == (127.5,) * 3) == (expected.crop_share == 0.9) == (found == RA4)
    task = Classification(recipe, torch.device("cpu"))
    for source in (task.train_source, task.eval_source, task._unvaried_training_split()):
        assert source.rules == expected
    said = task.about()["inputs"]
    assert said["mean"] == list(expected.mean) and said["crop_share"] == expected.crop_share
    low, _ = _pixel_range(recipe, torch.device("cpu"))
    assert float(low[0]) == pytest.approx(-expected.mean[0] / expected.std[0])
    rows = dict(weights_rows(recipe.model))
    assert (rows.get("pixels of photos", "").split(",")[0] == f"as for {RA4}") == (found == RA4)
    # A run of a version that took those of the default tag is scored with the pixels that it was trained on.
    before = said | {key: list(value) if key in ("mean", "std") else value
                     for key, value in vars(PixelRules(interpolation="bicubic")).items()}  # fmt: skip
    trained = TrainedModel(
        tmp_path, tmp_path, recipe, {}, False, ["ant", "bee"], before, step=1, fingerprint={}
    )
    scored = Classification(_as_trained(trained), torch.device("cpu")).eval_source.rules
    assert np.allclose(scored.mean, before["mean"], rtol=1e-12) and scored.crop_share == 0.875
    assert _as_trained(dataclasses.replace(trained, inputs=said)) == recipe


def test_other_pixels_since_the_checkpoint_are_said():
    """Checkpoints of detectors did not say that they had ImageNet's mean and deviation."""
    now = {"size": 224, "mean": [127.5] * 3, "std": [*PixelRules().std], "crop_share": 0.9}
    changed = ["note: mean of the inputs was [123.675, 116.28, 103.53], is [127.5, 127.5, 127.5] since the"]
    for before in ({"size": 224}, now | {"mean": [*PixelRules().mean]}):
        assert [note.removesuffix(" checkpoint") for note in notes_on_inputs(before, now)] == changed
    assert notes_on_inputs(now, now) == notes_on_inputs({}, now) == []


def test_small_images_take_a_mean_too_but_no_crop_share():
    source = open_source(DataConfig(mean=["0.5"]), train=True, seed=0)
    assert float(source.mean) == 127.5
    with pytest.raises(RecipeError, match=r"data\.crop_share=0\.5: only photos take it"):
        open_source(DataConfig(crop_share=0.5), train=True, seed=0)


@pytest.mark.parametrize(
    ("name", "interpolation"),
    [
        ("resnet50", "bilinear"),
        ("resnet50_8k", "bilinear"),
        ("resnet50_lamb_32k", "bicubic"),  # resnet_preprocessing.py of its authors
        ("alexnet", "bilinear"),
        ("alexnet_bn_lars_8k", "bilinear"),
    ],
)
def test_recipes_of_papers_keep_the_papers_pixels(name, interpolation):
    from lbtrain.recipe.files import find_recipe, load_recipe

    recipe = load_recipe(find_recipe(f"imagenet/{name}"))
    rules = photo_rules(recipe.data, recipe.model.name)
    assert np.allclose(rules.mean, PixelRules().mean) and rules.interpolation == interpolation
    size = recipe.data.image_size or 224
    assert side_before_crop(size, rules.crop_share) == 256
    view = VIEWS["alexnet" if "alexnet" in name else "imagenet"]
    photo = Photo(encoded(natural(5, 300, 400), "JPEG"))
    assert view.look(photo, [0.5] * view.draws, size, rules.crop_share).shape == (3, size, size)
    assert torch.is_tensor(VIEWS["none"].look(photo, [], size, rules.crop_share))
