"""Images of one's own as the inputs of a trained model, prepared as its evaluation prepares them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lbtrain.data.decode import BrokenImage, Photo, unreadable, whole_image
from lbtrain.data.formats import is_hidden_folder, is_image
from lbtrain.data.index import natural_key
from lbtrain.data.views import VIEWS
from lbtrain.errors import RecipeError, naming_the_shortage, naming_what_is_closed

T = TypeVar("T")


def image_files(names: Iterable[str]) -> list[Path]:
    """The files among `names`, and all images in the folders among them, in natural order. Raises RecipeError
    for a name that is not there, and for a folder without images or that is closed to this user.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        with naming_what_is_closed(str(path)):
            if not path.exists():
                raise RecipeError(f"{path} does not exist. Give images, or folders of images.")
            inside = sorted(_images_in(path), key=lambda file: natural_key(str(file)))
            if path.is_dir() and not inside:
                raise RecipeError(f"{path} has no images in it.")
            found += inside if path.is_dir() else [path]
    return found


def _images_in(folder: Path) -> Iterator[Path]:
    """At any depth. Raises PermissionError, where rglob would leave out what is closed."""

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_hidden_folder(name)]
        paths = (Path(place) / name for name in names if is_image(name) and not name.startswith("."))
        yield from filter(Path.is_file, paths)


def readable(
    paths: Iterable[Path], prepare: Callable[[bytes], T], broken: list[str]
) -> Iterator[tuple[int, Path, T]]:
    """Of each file its number and what `prepare` makes of its content; why one cannot be read is added to
    `broken`.
    """
    for number, path in enumerate(paths):
        try:
            with naming_the_shortage():
                data = path.read_bytes()
            prepared = prepare(data)
        except (BrokenImage, OSError) as error:
            broken.append(str(unreadable(str(path), error)))
            continue
        yield number, path, prepared


def input_of(data: bytes, inputs: Mapping[str, Any], max_pixels: int) -> Tensor:
    """The input (channels, size, size) of a classifier. Raises BrokenImage."""
    return _normalised(_pixels(data, inputs, max_pixels), inputs)


def _pixels(data: bytes, inputs: Mapping[str, Any], max_pixels: int) -> Tensor:
    """float32 (channels, size, size), 0 to 255."""
    size = inputs["size"]
    if inputs["photos"]:
        photo = Photo(data, interpolation=inputs["interpolation"], max_pixels=max_pixels)
        return VIEWS["none"].look(photo, (), size, inputs["crop_share"]).float()
    image = Image.fromarray(whole_image(data, max_pixels)).convert("L" if inputs["channels"] == 1 else "RGB")
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.float32)
    return torch.from_numpy(pixels.reshape(size, size, -1).copy()).permute(2, 0, 1)


def _normalised(pixels: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    mean, std = (torch.tensor(inputs[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std
