"""The photos of COCO's records before the first step: are they there, and of the size that the file states?

Only headers are read, and what was found is kept between runs (lbtrain.data.index_cache) until the file or a
photo changes.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbtrain.data.coco_layouts import CocoFiles
from lbtrain.data.decode import BrokenImage, opened, upright_size
from lbtrain.data.index import digests, printable
from lbtrain.data.index_cache import read_index, settled, stamp_of, state_of, write_index
from lbtrain.data.progress import Progress
from lbtrain.errors import DataError

_NAMED = 3


def checked_photos(files: CocoFiles, split: str, images: Sequence[Any], max_pixels: int) -> NDArray[np.int64]:
    """Their sizes in bytes. Raises DataError with the number of photos that are not there, or whose upright
    size is another one than their record in `images` states, and the first three of them. `split`: train or
    validation, which may be in one file and are kept apart.
    """
    if not len(images):
        return np.zeros(0, np.int64)
    places, began = [files.photos, files.annotations], time.time_ns()
    paths = [str(files.photos / image["file_name"]) for image in images]
    states = [state_of(path) for path in paths]
    missing = [image["file_name"] for image, state in zip(images, states, strict=True) if not state]
    _reject(files, missing, f"photos are not in {files.photos}")
    sizes = np.array([state[0] for state in states if state], np.int64)
    records = [(image["file_name"], image["height"], image["width"]) for image in images]
    stated = digests(of=(max_pixels, records))["of"]
    kept = read_index(places, split)
    if kept is None or str(kept.get("stated")) != stated:
        _check_headers(files, images, paths, max_pixels)
        all_states = [*map(state_of, places), *states]
        if settled(all_states, began):
            watched = np.array([os.fsencode(image["file_name"]) for image in images], np.bytes_)
            found = {"watched": watched, "stated": np.array(stated)}
            write_index(places, stamp_of(all_states), found, split)
    return sizes


def _check_headers(files: CocoFiles, images: Sequence[Any], paths: Sequence[str], max_pixels: int) -> None:
    progress, wrong = Progress(f"checking the photos of {files.annotations}", len(images)), []
    for image, path in zip(images, paths, strict=True):
        problem = _problem(image, Path(path), max_pixels)
        if problem:
            wrong.append(f"{image['file_name']} ({problem})")
        progress.add(1)
    _reject(files, wrong, f"photos in {files.photos} have another size than it states, or cannot be read")


def _problem(image: Any, path: Path, max_pixels: int) -> str:
    try:
        with path.open("rb") as file:
            found, stored = upright_size(header := opened(file, max_pixels)), header.size[::-1]
    except (BrokenImage, OSError) as error:
        return str(error)
    if found == (image["height"], image["width"]):
        return ""
    turned = ", turned as its EXIF orientation says," if found != stored else ""
    return f"{found[0]} x {found[1]} pixels{turned} for {image['height']} x {image['width']}"


def _reject(files: CocoFiles, wrong: Sequence[str], what: str) -> None:
    if wrong:
        more = ", ..." if len(wrong) > _NAMED else ""
        named = ", ".join(map(printable, wrong[:_NAMED]))
        raise DataError(f"{files.annotations}: {len(wrong):,} {what}: {named}{more}")
