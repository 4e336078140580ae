"""The small data sets that fit in memory: scikit-learn's digits, CIFAR, MNIST and Fashion-MNIST, in the layouts they come in."""

import gzip
import io
import itertools
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbtrain.errors import RecipeError

Arrays = tuple[NDArray[np.uint8], NDArray[Any]]
"""Images (N, height, width, channels) and labels (N,)."""

_IDX_FOLDERS = {"mnist": ("MNIST/raw", "mnist"), "fashion_mnist": ("FashionMNIST/raw", "fashion_mnist")}


def read_arrays(name: str, root: Path, *, train: bool) -> Arrays:
    """One half of the data set. Raises RecipeError where it is not in `root` in any layout known, or is damaged."""
    return _idx(name, root, train) if name in _IDX_FOLDERS else _cifar(name, root, train)


def digits(train: bool) -> Arrays:
    """scikit-learn's bundled 8 x 8 digits, split once and for all: 1,440 to train on, 357 to score."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.target))
    part = order[:1440] if train else order[1440:]
    return (bunch.images[part, :, :, None] * 15.9375).astype(np.uint8), bunch.target[part]


def _cifar(name: str, root: Path, train: bool) -> Arrays:
    split = "train" if train else "test"
    for folder in (root, root / name):
        if (folder / f"{split}.npz").is_file():
            return _strips(folder / f"{split}.npz")
        if (folder / ("cifar-10-batches-py" if name == "cifar10" else "cifar-100-python")).is_dir():
            return _torchvision_cifar(name, folder, train)
        if (folder / split).is_dir():
            return _decoded_folder(folder, split)
    raise RecipeError(
        f"data.root={root}: no {name} here. Known layouts: torchvision's (cifar-10-batches-py), {split}.npz of lossless WebP "
        f"strips, or a folder {split}/CLASS/IMAGE.png that timm reads"
    )


def _strips(path: Path) -> Arrays:
    """Lossless WebP strips of 32 x 32 images: `webp` holds the bytes, `offsets` where each strip starts, `labels` the classes."""
    from PIL import Image

    with np.load(path) as file:
        blob, offsets, labels = file["webp"].tobytes(), file["offsets"], file["labels"]
    strips = [np.asarray(Image.open(io.BytesIO(blob[a:b]))).reshape(-1, 32, 32, 3) for a, b in itertools.pairwise(offsets)]
    return np.concatenate(strips), labels


def _torchvision_cifar(name: str, folder: Path, train: bool) -> Arrays:
    from torchvision import datasets

    try:
        data = (datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100)(str(folder), train=train)
    except RuntimeError as error:
        raise RecipeError(f"data.root={folder}: torchvision finds it incomplete or damaged; unpack it again ({error})") from error
    return data.data, np.asarray(data.targets)


def _decoded_folder(folder: Path, split: str) -> Arrays:
    from timm.data import create_dataset

    try:
        dataset = create_dataset("", str(folder), split=split)
    except RuntimeError as error:
        raise RecipeError(f"data.root={folder}: {error}") from error
    samples = [(np.asarray(image.convert("RGB")), label) for image, label in dataset]
    return np.stack([image for image, _ in samples]), np.array([label for _, label in samples])


def _idx(name: str, root: Path, train: bool) -> Arrays:
    """The four IDX files that MNIST and its like come in, gzipped or not, as torchvision keeps them or directly in the folder."""
    split = "train" if train else "t10k"
    images, labels = f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"
    for folder in (root, *(root / inside for inside in _IDX_FOLDERS[name])):
        if any((folder / (images + suffix)).is_file() for suffix in ("", ".gz")):
            pixels, classes = _read_idx(folder / images, 3)[..., None], _read_idx(folder / labels, 1)
            if len(pixels) != len(classes):
                raise RecipeError(f"data.root={folder}: {len(pixels)} images in {images} but {len(classes)} labels in {labels}")
            return pixels, classes
    places = " or ".join(f"root/{inside}/" for inside in _IDX_FOLDERS[name])
    raise RecipeError(
        f"data.root={root}: no {name} here. Known layouts: {images} and {labels} (or the same with .gz) in {places} or directly in root"
    )


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, type 8, the number of dimensions, each dimension as a big-endian int32, the values."""
    zipped = path.with_name(path.name + ".gz")
    try:
        data = path.read_bytes() if path.is_file() else gzip.decompress(zipped.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise RecipeError(f"{path if path.is_file() else zipped}: missing or damaged; fetch it again ({error})") from error
    header = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(data[at : at + 4]) for at in range(4, header, 4))
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != header + math.prod(shape):
        raise RecipeError(f"{path}: not a whole IDX file of {dimensions} dimensions of bytes; fetch it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()  # one that may be written to, as torch wants
