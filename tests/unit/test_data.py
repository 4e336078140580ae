"""Data sets as they lie on disk, and augmentation that belongs to the sample."""

import dataclasses
import gzip
import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets

from lbtrain.data import ArraySource, DatasetInfo, batches, dataset_info, open_source, registry
from lbtrain.data.augment import crop_flip, draws
from lbtrain.data.stream import Block, SampleStream
from lbtrain.errors import DataError, RecipeError
from lbtrain.recipe import DataConfig

CPU = torch.device("cpu")


def block(*indices: int, epoch: int = 0) -> Block:
    return Block(np.full(len(indices), epoch), np.array(indices))


def whole(source) -> tuple[torch.Tensor, torch.Tensor]:
    return source.fetch(block(*range(len(source))))


def in_bytes(images: torch.Tensor, known: DatasetInfo) -> np.ndarray:
    """Normalised images back in 0..255."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (known.mean, known.std))
    return (images * std + mean).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def test_digits_are_1797_different_samples_split_once():
    from sklearn.datasets import load_digits

    known = dataset_info(DataConfig())
    train, evaluation = (open_source(DataConfig(), train=train, seed=0) for train in (True, False))
    assert (len(train), len(evaluation)) == (known.train_examples, known.eval_examples) == (1440, 357)
    images = np.concatenate([in_bytes(whole(source)[0], known) for source in (train, evaluation)])
    labels = torch.cat([whole(source)[1] for source in (train, evaluation)])
    digits = load_digits()
    expected = [
        (image.astype(np.uint8).tobytes(), int(label))
        for image, label in zip(digits.images * 15.9375, digits.target, strict=True)
    ]
    assert sorted(zip([image.tobytes() for image in images], labels.tolist(), strict=True)) == sorted(
        expected
    )


def test_a_data_set_can_be_its_first_images():
    config = DataConfig(name="digits", train_examples=100)
    part, whole = (
        open_source(config, train=True, seed=0),
        open_source(DataConfig(name="digits"), train=True, seed=0),
    )
    assert len(part) == dataset_info(config).train_examples == 100
    assert torch.equal(part.fetch(block(99))[0], whole.fetch(block(99))[0])
    assert len(open_source(config, train=False, seed=0)) == 357
    with pytest.raises(RecipeError, match=r"train_examples=1441: digits has 1,440"):
        dataset_info(DataConfig(name="digits", train_examples=1441))
    with pytest.raises(RecipeError, match=r"all of one class\. Use data.train_examples=0"):
        dataset_info(DataConfig(name="imagenet", train_examples=1000))


def test_digits_are_normalised_by_their_own_statistics():
    images, labels = whole(open_source(DataConfig(), train=True, seed=0))
    assert images.shape == (1440, 1, 8, 8) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert abs(float(images.mean())) < 3e-3 and abs(float(images.std(correction=0)) - 1) < 3e-3
    assert set(labels.tolist()) == set(range(10))


def shrink(monkeypatch: pytest.MonkeyPatch, name: str, *, train: int, evaluation: int, classes: int) -> None:
    """Makes the data set `name` one of a few images, for tests that write it themselves."""
    small = dataclasses.replace(
        registry._FACTS[name], train_examples=train, eval_examples=evaluation, num_classes=classes
    )
    monkeypatch.setitem(registry._FACTS, name, small)


def write_idx(path: Path, values: np.ndarray, *, zipped: bool) -> None:
    data = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".gz" * zipped).write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("mnist", "MNIST/raw"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("fashion_mnist", "fashion_mnist"),
        ("mnist", ""),
    ],
)
def test_idx_files_in_every_layout(tmp_path, monkeypatch, name, inside, zipped):
    shrink(monkeypatch, name, train=5, evaluation=5, classes=5)
    images, labels = (
        np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8),
        np.arange(5, dtype=np.uint8),
    )
    for split in ("train", "t10k"):
        write_idx(tmp_path / inside / f"{split}-images-idx3-ubyte", images, zipped=zipped)
        write_idx(tmp_path / inside / f"{split}-labels-idx1-ubyte", labels, zipped=zipped)
    for train in (True, False):
        source = open_source(DataConfig(name=name, root=str(tmp_path)), train=train, seed=0)
        assert np.array_equal(source.images[..., 0], images) and source.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], "not a whole IDX file"),
        (lambda data: data[:7], "not a whole IDX file"),
        (lambda data: b"", "not a whole IDX file"),
        (lambda data: data[:3] + bytes([1]) + data[4:], "not a whole IDX file"),
        (
            lambda data: data[:4] + np.array([4], ">i4").tobytes() + data[8 : 8 + 4 * 28 * 28 + 8],
            "4 images in .* but 5 labels",
        ),
    ],
)
def test_a_damaged_idx_file_is_the_users_error(tmp_path, damage, said):
    images = tmp_path / "train-images-idx3-ubyte"
    write_idx(images, np.zeros((5, 28, 28), np.uint8), zipped=False)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(5, np.uint8), zipped=False)
    images.write_bytes(damage(images.read_bytes()))
    with pytest.raises(RecipeError, match=said):
        open_source(DataConfig(name="mnist", root=str(tmp_path)), train=True, seed=0)


def test_a_cut_off_gzip_and_a_missing_labels_file_name_the_file(tmp_path):
    images = tmp_path / "train-images-idx3-ubyte"
    write_idx(images, np.zeros((5, 28, 28), np.uint8), zipped=True)
    with pytest.raises(RecipeError, match=r"train-labels-idx1-ubyte\.gz: missing or damaged"):
        open_source(DataConfig(name="mnist", root=str(tmp_path)), train=True, seed=0)
    zipped = images.with_name(images.name + ".gz")
    zipped.write_bytes(zipped.read_bytes()[:20])
    with pytest.raises(RecipeError, match=r"train-images-idx3-ubyte\.gz: missing or damaged"):
        open_source(DataConfig(name="mnist", root=str(tmp_path)), train=True, seed=0)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def write_torchvision_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Ten images a file, one of each class, in torchvision's layout. Its checksums are the real files', so
    ours replace them.
    """
    folder, images = root / "cifar-10-batches-py", pictures(60)
    folder.mkdir(parents=True)
    names = [name for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list]
    for number, name in enumerate(names):
        part = images[10 * number : 10 * number + 10]
        rows = part.transpose(0, 3, 1, 2).reshape(10, -1)
        (folder / name).write_bytes(
            pickle.dumps({"data": rows, "labels": [*range(number, 10), *range(number)]})
        )
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(label) for label in range(10)]}))

    def checksum(name: str) -> str:
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for attribute in ("train_list", "test_list"):
        listed = getattr(datasets.CIFAR10, attribute)
        monkeypatch.setattr(datasets.CIFAR10, attribute, [[name, checksum(name)] for name, _ in listed])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": checksum("batches.meta")})
    return images


def strips(images: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(images.reshape(-1, 32, 3)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def write_strips(path: Path, images: np.ndarray) -> None:
    """Two lossless WebP strips, labelled 0 to 9 over and over."""
    parts = [strips(part) for part in (images[:30], images[30:]) if len(part)]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        webp=np.frombuffer(b"".join(parts), np.uint8),
        offsets=np.cumsum([0, *map(len, parts)]),
        labels=np.arange(len(images)) % 10,
    )


@pytest.mark.parametrize("root", ["", "cifar10"])
def test_cifar10_from_strips(tmp_path, monkeypatch, root):
    """In the folder of all data sets or in its own, named by the recipe or by the environment."""
    images = pictures(60)
    write_strips(tmp_path / "cifar10/train.npz", images)
    write_strips(tmp_path / "cifar10/test.npz", images[:40])
    shrink(monkeypatch, "cifar10", train=60, evaluation=40, classes=10)
    monkeypatch.setenv("LBTRAIN_DATA", str(tmp_path / root))
    for config in (DataConfig(name="cifar10", root=str(tmp_path / root)), DataConfig(name="cifar10")):
        for train, count in ((True, 60), (False, 40)):
            read, labels = whole(open_source(config, train=train, seed=0))
            assert np.array_equal(in_bytes(read, dataset_info(config)), images[:count])
            assert labels.tolist() == [number % 10 for number in range(count)]


@pytest.mark.parametrize("inside", ["", "cifar10"])
def test_cifar10_in_torchvisions_layout(tmp_path, monkeypatch, inside):
    images = write_torchvision_cifar10(tmp_path / inside, monkeypatch)
    shrink(monkeypatch, "cifar10", train=50, evaluation=10, classes=10)
    config = DataConfig(name="cifar10", root=str(tmp_path))
    for train, rows in ((True, slice(0, 50)), (False, slice(50, 60))):
        read, labels = whole(open_source(config, train=train, seed=0))
        assert np.array_equal(in_bytes(read, dataset_info(config)), images[rows])
        assert labels.tolist() == [(number + label) % 10 for number in range(6) for label in range(10)][rows]


def test_a_damaged_file_of_torchvisions_is_the_users_error(tmp_path, monkeypatch):
    write_torchvision_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cut off")
    with pytest.raises(RecipeError, match=r"data\.root=.*incomplete or damaged"):
        open_source(DataConfig(name="cifar10", root=str(tmp_path)), train=True, seed=0)


def write_folder(root: Path, split: str, suffix: str, count: int = 3) -> dict[str, list[np.ndarray]]:
    images = {name: list(pictures(2 * count)[number::2]) for number, name in enumerate(("cat", "dog"))}
    for name, members in images.items():
        (root / split / name).mkdir(parents=True)
        for number, image in enumerate(members):
            Image.fromarray(image).save(root / split / name / f"{number}.{suffix}")
    return images


def test_cifar10_from_a_folder(tmp_path, monkeypatch):
    shrink(monkeypatch, "cifar10", train=6, evaluation=6, classes=2)
    images = write_folder(tmp_path, "test", "png")
    read, labels = whole(open_source(DataConfig(name="cifar10", root=str(tmp_path)), train=False, seed=0))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(
        in_bytes(read, dataset_info(DataConfig(name="cifar10"))), np.stack(images["cat"] + images["dog"])
    )


def test_small_images_are_counted_against_the_data_set_that_is_named(tmp_path, monkeypatch):
    write_folder(tmp_path, "train", "png")
    write_folder(tmp_path, "test", "png")
    config = DataConfig(name="cifar10", root=str(tmp_path), train_examples=4)
    with pytest.raises(
        RecipeError,
        match=r"^data\.root=.*: 6 training images and 6 labels, but cifar10 has 50,000; .*imagefolder",
    ):
        open_source(config, train=True, seed=0)
    shrink(monkeypatch, "cifar10", train=6, evaluation=7, classes=2)
    assert len(open_source(config, train=True, seed=0)) == 4
    with pytest.raises(RecipeError, match=r"6 evaluation images and 6 labels, but cifar10 has 7"):
        open_source(config, train=False, seed=0)
    shrink(monkeypatch, "cifar10", train=6, evaluation=6, classes=10)
    with pytest.raises(
        RecipeError,
        match=r"images of 2 classes, labelled 0 to 1, but cifar10 has 10, from 0 on; .*imagefolder",
    ):
        open_source(config, train=True, seed=0)


@pytest.mark.parametrize("labels", [[1, 2, 3, 4, 5], [0, 1, 2, 3, 3], [0, 1, 2, 3, 200]])
def test_labels_are_those_of_the_data_set(tmp_path, monkeypatch, labels):
    shrink(monkeypatch, "mnist", train=5, evaluation=5, classes=5)
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((5, 28, 28), np.uint8), zipped=False)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array(labels, np.uint8), zipped=False)
    with pytest.raises(
        RecipeError, match=f"labelled {labels[0]} to {labels[-1]}, but mnist has 5, from 0 on"
    ):
        open_source(DataConfig(name="mnist", root=str(tmp_path)), train=True, seed=0)


def test_cifar10_is_not_taken_for_cifar100(tmp_path, monkeypatch):
    write_strips(tmp_path / "test.npz", pictures(40))
    shrink(monkeypatch, "cifar100", train=40, evaluation=40, classes=100)
    with pytest.raises(
        RecipeError, match=r"evaluation images of 10 classes, labelled 0 to 9, but cifar100 has 100"
    ):
        open_source(DataConfig(name="cifar100", root=str(tmp_path)), train=False, seed=0)


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.write_bytes(b"broken"), lambda path: path.write_bytes(path.read_bytes()[:-200])],
)
def test_a_broken_image_in_a_folder_of_small_images_is_named(tmp_path, damage):
    write_folder(tmp_path, "train", "png")
    path = tmp_path / "train" / "cat" / "2.png"
    damage(path)
    with pytest.raises(DataError, match=f"^{path}: cannot be read as an image"):
        open_source(DataConfig(name="cifar10", root=str(tmp_path)), train=True, seed=0)


def test_an_image_of_another_size_among_small_images_is_named(tmp_path):
    write_folder(tmp_path, "train", "png")
    path = tmp_path / "train" / "dog" / "1.png"
    Image.fromarray(np.zeros((40, 32, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match=f"^{path}: 32 x 40 pixels, but CIFAR's images have 32 x 32"):
        open_source(DataConfig(name="cifar10", root=str(tmp_path)), train=True, seed=0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<html>404 Not Found</html>"),
        lambda path: path.write_bytes(path.read_bytes().replace(b"RIFF", b"LIFF")),
        lambda path: np.savez(path, webp=np.zeros(9, np.uint8), labels=np.zeros(9)),
        lambda path: np.savez(path, webp=np.zeros(9, np.uint8), offsets=[0, 9], labels=np.zeros(9)),
    ],
)
def test_a_damaged_file_of_strips_is_named(tmp_path, damage):
    path, webp = tmp_path / "train.npz", strips(pictures(12))
    np.savez(path, webp=np.frombuffer(webp, np.uint8), offsets=[0, len(webp)], labels=np.arange(12) % 10)
    damage(path)
    with pytest.raises(
        DataError, match=f"^{path}: not a whole file of WebP strips; fetch it again"
    ) as raised:
        open_source(DataConfig(name="cifar10", root=str(tmp_path)), train=True, seed=0)
    assert "pickle" not in str(raised.value)


def test_an_imagefolder_is_counted_and_read(tmp_path):
    write_folder(tmp_path, "train", "jpg")
    write_folder(tmp_path, "val", "jpg", count=2)
    config = DataConfig(name="imagefolder", root=str(tmp_path), image_size=24, augmentation="imagenet")
    known = dataset_info(config)
    assert (known.train_examples, known.eval_examples, known.num_classes, known.image_size) == (6, 4, 2, 24)
    train, evaluation = (open_source(config, train=train, seed=3) for train in (True, False))
    images, labels = train.fetch(block(0, 5, 0))
    assert images.shape == (3, 3, 24, 24) and labels.tolist() == [0, 1, 0]
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], train.fetch(block(0, epoch=1))[0][0])
    assert torch.equal(evaluation.fetch(block(1))[0], evaluation.fetch(block(1, epoch=1))[0])


def test_images_of_a_folder_do_not_depend_on_the_block_or_the_worker(tmp_path):
    write_folder(tmp_path, "train", "jpg")
    write_folder(tmp_path, "val", "jpg")
    config = DataConfig(name="imagefolder", root=str(tmp_path), image_size=16, augmentation="imagenet")
    source = open_source(config, train=True, seed=1)
    together = source.fetch(block(4, 1, 2, 0))[0]
    apart = [source.fetch(block(index))[0] for index in (4, 1, 2, 0)]
    assert torch.equal(together, torch.cat(apart))
    for workers in (1, 2):
        loaded = batches(source, [block(4, 1), block(2, 0)], workers=workers, device=CPU)
        assert torch.equal(together, torch.cat([images for images, _ in loaded]))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            dict(name="cifar10"),
            r"data\.name=cifar10 needs data\.root=FOLDER \(or the environment variable LBTRAIN_DATA\)",
        ),
        (dict(name="cifar10", root="/no/such/folder"), r"data\.root=/no/such/folder: no such folder"),
        (dict(name="imagenet"), "needs data.root=FOLDER"),
        (dict(name="imagefolder", root="/no/such/folder"), "no such folder"),
    ],
)
def test_missing_data_is_said_with_the_remedy(monkeypatch, config, said):
    monkeypatch.delenv("LBTRAIN_DATA", raising=False)
    with pytest.raises(RecipeError, match=said):
        open_source(DataConfig(**config), train=True, seed=0)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist", "imagenet", "imagefolder"])
def test_an_empty_folder_is_said_with_the_known_layouts(tmp_path, name):
    with pytest.raises(RecipeError, match=r"Known layouts|root/train/CLASS/IMAGE"):
        open_source(DataConfig(name=name, root=str(tmp_path)), train=True, seed=0)


def test_a_folder_without_images_is_the_users_error(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    for name in ("imagefolder", "cifar10"):
        with pytest.raises(RecipeError, match=r"data\.root="):
            open_source(DataConfig(name=name, root=str(tmp_path)), train=True, seed=0)


def test_synthetic_data_is_as_large_as_imagenet_and_repeats_itself():
    config = DataConfig(name="synthetic", image_size=8)
    first, second = (open_source(config, train=True, seed=0) for _ in range(2))
    images, labels = first.fetch(block(1, 65, 1_281_166))
    assert len(first) == dataset_info(config).train_examples == 1_281_167
    assert images.shape == (3, 3, 8, 8) and torch.equal(images[0], images[1])
    assert labels.tolist() == [1, 65, 1_281_166 % 1000]
    assert torch.equal(images, second.fetch(block(1, 65, 1_281_166))[0])


def naive_crop_flip(image: np.ndarray, top: int, left: int, flip: bool, padding: int) -> np.ndarray:
    height, width, _ = image.shape
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            source_row, source_column = (
                row + top - padding,
                (width - 1 - column if flip else column) + left - padding,
            )
            if 0 <= source_row < height and 0 <= source_column < width:
                out[row, column] = image[source_row, source_column]
    return out


@pytest.mark.parametrize(("height", "width", "padding"), [(8, 8, 4), (5, 7, 2), (6, 4, 1)])
def test_crop_and_flip_against_a_loop_over_pixels(height, width, padding):
    where = Block(np.arange(40) // 16, np.arange(40) * 7)
    images = np.random.default_rng(1).integers(0, 256, (40, height, width, 2), dtype=np.uint8)
    numbers = draws(where, 5, 3)
    expected = [
        naive_crop_flip(
            image, int(top % (2 * padding + 1)), int(left % (2 * padding + 1)), bool(flip % 2), padding
        )
        for image, top, left, flip in zip(images, *numbers, strict=True)
    ]
    assert np.array_equal(crop_flip(torch.from_numpy(images), where, 5, padding), np.stack(expected))


@given(
    st.integers(0, 2**31 - 1),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 2**31)), min_size=1, max_size=20),
    st.data(),
)
def test_draws_of_a_sample_do_not_depend_on_its_block(seed, samples, data):
    epochs, indices = (np.array(column) for column in zip(*samples, strict=True))
    split = data.draw(st.integers(0, len(samples)))
    together = draws(Block(epochs, indices), seed, 3)
    apart = [
        draws(Block(epochs[part], indices[part]), seed, 3)
        for part in (slice(0, split), slice(split, None))
        if len(epochs[part])
    ]
    assert np.array_equal(together, np.concatenate(apart, axis=1))


def test_draws_differ_between_seeds_epochs_samples_and_numbers():
    found = {
        int(value)
        for seed in range(5)
        for epoch in range(5)
        for value in draws(block(*range(50), epoch=epoch), seed, 3).flat
    }
    assert len(found) == 5 * 5 * 50 * 3


def test_draws_are_uniform():
    top, _, flip = draws(block(*range(90_000)), 0, 3)
    counts = np.bincount((top % np.uint64(9)).astype(int), minlength=9)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 26.1  # 0.1 % of chi-square with 8 degrees of freedom
    assert abs(float((flip % np.uint64(2)).mean()) - 0.5) < 0.006


def test_draws_never_change():
    """A release with other numbers would change every run: this row may only change with a note to users."""
    assert draws(Block(np.array([1]), np.array([2])), 3, 1).tolist() == [[4445124085110878567]]


def array_source() -> ArraySource:
    images = pictures(20)
    return ArraySource(images, np.arange(20), mean=(0.0,) * 3, std=(1.0,) * 3, augment=True, seed=7)


def test_augmented_arrays_do_not_depend_on_the_block_or_the_worker():
    source, where = array_source(), SampleStream(20, 7).block(15, 12)
    together = source.fetch(where)
    parts = [Block(where.epochs[part], where.indices[part]) for part in (slice(0, 5), slice(5, 12))]
    for workers in (0, 2):
        loaded = list(batches(source, parts, workers=workers, device=CPU))
        assert torch.equal(together[0], torch.cat([images for images, _ in loaded]))
        assert torch.equal(together[1], torch.cat([labels for _, labels in loaded]))


def test_the_next_epoch_draws_anew_and_evaluation_draws_nothing():
    source = array_source()
    assert not torch.equal(source.fetch(block(*range(20)))[0], source.fetch(block(*range(20), epoch=1))[0])
    plain = ArraySource(
        source.images.numpy(), np.arange(20), mean=(0.0,) * 3, std=(1.0,) * 3, augment=False, seed=7
    )
    assert np.array_equal(whole(plain)[0].permute(0, 2, 3, 1), source.images)


def test_fetching_leaves_the_stored_images_as_they_were():
    source = array_source()
    before = source.images.clone()
    whole(source)
    assert torch.equal(source.images, before)


def test_sized_images_are_the_same_images_at_another_size():
    source = open_source(DataConfig(augmentation="crop_flip"), train=True, seed=3)
    six = SampleStream(1440, 0).block(0, 6)
    own, labels = source.fetch(six)
    small, same_labels = source.sized(4).fetch(six)
    assert small.shape == (6, 1, 4, 4) and torch.equal(labels, same_labels)
    expected = F.interpolate(own, (4, 4), mode="bilinear", antialias=True)
    assert torch.equal(small, expected)
    assert torch.equal(source.sized(8).fetch(six)[0], own)
    assert torch.equal(source.fetch(six)[0], own), "the source itself keeps its size"
