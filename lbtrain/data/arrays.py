"""The small data sets that fit in memory: scikit-learn's digits, CIFAR, MNIST and Fashion-MNIST, in the
layouts they come in.
"""

import gzip
import importlib.util
import itertools
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbtrain.data.decode import MAX_PIXELS, BrokenImage, unreadable, whole_image
from lbtrain.data.folder import Files
from lbtrain.errors import DataError, RecipeError, naming_the_shortage

Arrays = tuple[NDArray[np.uint8], NDArray[Any]]
"""Images (N, height, width, channels) and labels (N,)."""

_CIFAR_SHAPE = (32, 32, 3)
_IDX_FOLDERS = {"mnist": ("MNIST/raw", "mnist"), "fashion_mnist": ("FashionMNIST/raw", "fashion_mnist")}


def read_arrays(name: str, root: Path, *, train: bool, max_pixels: int = MAX_PIXELS) -> Arrays:
    """One half of the data set. Raises RecipeError where it is not in `root` in any layout known, or not
    whole, and DataError for an image, or a file of strips, that cannot be read.
    """
    read = _idx if name in _IDX_FOLDERS else _cifar
    return read(name, root, train, max_pixels)


def digits(train: bool) -> Arrays:
    """scikit-learn's bundled 8 x 8 digits, split once and for all: 1,440 to train on, 357 to score."""
    # Importing scikit-learn takes more than a second, and its table of digits can be read without.
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    with gzip.open(Path(package.origin).parent / "datasets/data/digits.csv.gz") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    part = np.random.RandomState(0).permutation(len(table))[slice(1440) if train else slice(1440, None)]
    images = table[part, :64].reshape(-1, 8, 8, 1)
    return (images * 15.9375).astype(np.uint8), table[part, 64].astype(np.int64)


def _cifar(name: str, root: Path, train: bool, max_pixels: int) -> Arrays:
    split = "train" if train else "test"
    for folder in (root, root / name):
        if (folder / f"{split}.npz").is_file():
            return _strips(folder / f"{split}.npz", max_pixels)
        if (folder / ("cifar-10-batches-py" if name == "cifar10" else "cifar-100-python")).is_dir():
            return _torchvision_cifar(name, folder, train)
        if (folder / split).is_dir():
            return _decoded_folder(folder / split)
    raise RecipeError(
        f"data.root={root}: no {name} here. Known layouts: torchvision's (cifar-10-batches-py), {split}.npz "
        f"of lossless WebP strips, or a folder {split}/CLASS/IMAGE.png"
    )


def _strips(path: Path, max_pixels: int) -> Arrays:
    """Lossless WebP strips of 32 x 32 images: `webp` holds the bytes, `offsets` where each strip starts,
    `labels` the classes.
    """
    try:
        # numpy would take it for a pickle, and its message proposes to load that unsafely.
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("no zip archive, or cut off")
        _check_unpacked(path, max_pixels)
        with np.load(path) as file:
            blob, offsets, labels = file["webp"].tobytes(), file["offsets"], file["labels"]
        strips = [
            whole_image(blob[a:b], max_pixels).reshape(-1, *_CIFAR_SHAPE)
            for a, b in itertools.pairwise(offsets)
        ]
        return np.concatenate(strips), labels
    except Exception as error:  # numpy, zipfile and Pillow raise whatever their parts do on damaged bytes
        raise DataError(f"{path}: not a whole file of WebP strips; fetch it again ({error})") from error


def _check_unpacked(path: Path, max_pixels: int) -> None:
    """Raises ValueError for a file that unpacks to more than `max_pixels` images' pixels could take."""
    with zipfile.ZipFile(path) as file:
        size = sum(member.file_size for member in file.infolist())
    if size > 3 * max_pixels:
        raise ValueError(f"{size:,} bytes when unpacked, more than 3 x data.max_pixels={max_pixels}")


def _torchvision_cifar(name: str, folder: Path, train: bool) -> Arrays:
    from torchvision import datasets

    try:
        data = (datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100)(str(folder), train=train)
    except RuntimeError as error:
        raise RecipeError(
            f"data.root={folder}: torchvision finds it incomplete or damaged; unpack it again ({error})"
        ) from error
    return data.data, np.asarray(data.targets)


def _decoded_folder(folder: Path) -> Arrays:
    files = Files(folder)
    return np.stack([_decoded(files, index) for index in range(len(files))]), files.labels


def _decoded(files: Files, index: int) -> NDArray[np.uint8]:
    try:
        with naming_the_shortage():
            data = files.read(index)
        pixels = whole_image(data)
    except (BrokenImage, OSError) as error:
        raise unreadable(files.name(index), error) from error
    if pixels.shape != _CIFAR_SHAPE:
        height, width, _ = pixels.shape
        raise DataError(
            f"{files.name(index)}: {width} x {height} pixels, but CIFAR's images have 32 x 32: photos are "
            "data.name=imagefolder"
        )
    return pixels


def _idx(name: str, root: Path, train: bool, max_pixels: int) -> Arrays:
    """The four IDX files that MNIST and its like come in, gzipped or not, as torchvision keeps them or
    directly in the folder.
    """
    split = "train" if train else "t10k"
    images, labels = f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"
    for folder in (root, *(root / inside for inside in _IDX_FOLDERS[name])):
        if any((folder / (images + suffix)).is_file() for suffix in ("", ".gz")):
            pixels = _read_idx(folder / images, 3, max_pixels)[..., None]
            classes = _read_idx(folder / labels, 1, max_pixels)
            if len(pixels) != len(classes):
                raise RecipeError(
                    f"data.root={folder}: {len(pixels)} images in {images} but {len(classes)} labels in "
                    f"{labels}"
                )
            return pixels, classes
    places = " or ".join(f"root/{inside}/" for inside in _IDX_FOLDERS[name])
    raise RecipeError(
        f"data.root={root}: no {name} here. Known layouts: {images} and {labels} (or the same with .gz) in "
        f"{places} or directly in root"
    )


def _read_idx(path: Path, dimensions: int, max_pixels: int) -> NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, type 8, the number of dimensions, each dimension as a big-endian
    int32, the values.
    """
    zipped = path.with_name(path.name + ".gz")
    try:
        with path.open("rb") if path.is_file() else gzip.open(zipped) as file:
            data = file.read(max_pixels + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RecipeError(
            f"{path if path.is_file() else zipped}: missing or damaged; fetch it again ({error})"
        ) from error
    if len(data) > max_pixels:
        raise RecipeError(
            f"{path}: more than data.max_pixels={max_pixels} bytes; fetch it again, or raise the bound"
        )
    header = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(data[at : at + 4]) for at in range(4, header, 4))
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != header + math.prod(shape):
        raise RecipeError(f"{path}: not a whole IDX file of {dimensions} dimensions of bytes; fetch it again")
    # A copy may be written to, as torch wants.
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()
