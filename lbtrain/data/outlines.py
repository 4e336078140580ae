"""Outlines of objects as COCO's files have them, checked before pycocotools sees them, and as masks.

pycocotools trusts what it is given: runs that end early leave the memory of the process in a mask, runs that
are too long or end inside a number are read and written beyond it, and a polygon with NaN or 1e9 takes all
memory.
"""

import math
from collections.abc import Sequence
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

_FARTHEST = 100_000
"""Pixels beyond which no coordinate of a polygon is believed: pycocotools needs memory for every one passed.
"""
_NUMBERS = {int, float}
_LARGEST = 2**35
"""Of one number in compressed runs: no image has so many pixels, and no sum of a file's numbers overflows."""
_MOST_CHARACTERS = 12
"""Of one such number, 5 bits each."""


def check_outline(outline: Any, height: int, width: int) -> None:
    """Raises ValueError unless it is a list of polygons, of which one has three points, or runs that cover
    exactly the image. Polygons of fewer points among others are left out by `mask_of`, as detectron2 does.
    """
    if isinstance(outline, list):
        if not [polygon for polygon in outline if _checked_polygon(polygon)]:
            raise ValueError("no polygon of three or more points")
    elif isinstance(outline, dict):
        _runs_of(outline, height, width)
    else:
        raise ValueError("neither polygons nor runs")


def mask_of(outline: Any, height: int, width: int) -> NDArray[np.uint8]:
    """An outline that was checked as a mask of 0 and 1, shape (height, width)."""
    runs = _runs_of(encoded(outline, height, width), height, width)
    values = np.arange(len(runs), dtype=np.uint8) & 1
    return np.repeat(values, runs).reshape(width, height).T


def encoded(outline: Any, height: int, width: int) -> dict[str, Any]:
    """An outline that was checked as compressed runs: {"size": [height, width], "counts": bytes}."""
    if isinstance(outline, list):
        return dict(rle.merge(rle.frPyObjects(polygons(outline), height, width)))
    if isinstance(outline["counts"], list):
        return dict(rle.frPyObjects({"size": [height, width], "counts": outline["counts"]}, height, width))
    return {"size": [height, width], "counts": outline["counts"]}


def touches_image(outline: Any, height: int, width: int) -> bool:
    """Whether an outline that was checked has an area on its image, as far as the extent of its polygons
    tells.
    """
    if isinstance(outline, dict):
        return bool(_runs_of(outline, height, width)[1::2].any())
    return any(
        min(polygon[::2]) < width
        and min(polygon[1::2]) < height
        and max(polygon[::2]) > 0
        and max(polygon[1::2]) > 0
        for polygon in polygons(outline)
    )


def holds_pixel(outline: Any, height: int, width: int) -> bool:
    """Whether the mask of an outline that was checked has a pixel. Drawn to find out is only what may have
    none.
    """
    if isinstance(outline, list) and any(_is_thick(each, height, width) for each in polygons(outline)):
        return True
    return bool(rle.area(encoded(outline, height, width)) > 0)


def _is_thick(polygon: Sequence[float], height: int, width: int) -> bool:
    """Whether it lies on its image and has more area than a strip of a pixel along its extent."""
    x, y = polygon[::2], polygon[1::2]
    left, right, top, bottom = min(x), max(x), min(y), max(y)
    if left < 0 or top < 0 or right > width or bottom > height:
        return False
    twice = abs(sum(map(mul, x, [*y[1:], y[0]])) - sum(map(mul, y, [*x[1:], x[0]])))
    return twice > 4 * (right - left + bottom - top)


def polygons(outline: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Those of three points or more. pycocotools takes a first one of two points for a box."""
    return [polygon for polygon in outline if len(polygon) >= 6]


def _checked_polygon(polygon: Any) -> bool:
    """Whether it has three points. Raises ValueError for what is no list of coordinates near an image."""
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= _NUMBERS or len(polygon) % 2:
        raise ValueError("a polygon is not a list of x and y")
    if polygon and not _are_near(polygon):
        raise ValueError(f"a polygon has a coordinate that is not a number within {_FARTHEST:,} pixels")
    return len(polygon) >= 6


def are_coordinates(values: list[Any]) -> bool:
    """Whether all are numbers that may be of pixels near an image."""
    return set(map(type, values)) <= _NUMBERS and _are_near(values)


def _are_near(numbers: list[float]) -> bool:
    # NaN can hide from min and max, which only compare, but not in a sum.
    return -_FARTHEST <= min(numbers) <= max(numbers) <= _FARTHEST and math.isfinite(sum(numbers))


def _runs_of(outline: dict[str, Any], height: int, width: int) -> NDArray[np.int64]:
    """The lengths of the runs, background first, column by column. Raises ValueError unless they cover
    exactly height x width pixels.
    """
    size, counts = outline.get("size"), outline.get("counts")
    if size not in ([height, width], (height, width)):
        raise ValueError(f"a mask of {size} pixels on an image of {[height, width]}")
    if isinstance(counts, list):
        if not set(map(type, counts)) <= {int} or not all(0 <= count <= height * width for count in counts):
            raise ValueError("counts that are not whole numbers of pixels of the image")
        runs = np.array(counts, np.int64)
    elif isinstance(counts, str | bytes):
        runs = _uncompressed(counts.encode() if isinstance(counts, str) else counts)
    else:
        raise ValueError("counts are neither a list nor a text")
    if runs.min(initial=0) < 0 or runs.sum() != height * width:
        raise ValueError(
            f"its runs cover {runs.sum()} pixels of {height * width}, or one of them is negative"
        )
    return runs


def _uncompressed(text: bytes) -> NDArray[np.int64]:
    """COCO's compressed runs (rleToString in maskApi.c): characters from 48 on hold 5 bits each, the lowest
    first, and a sixth where more follow; the fifth bit of the last is the sign; from the fourth run on,
    numbers are
    differences to the run two before.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    last = codes & 32 == 0
    if codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise ValueError(
            "compressed runs with a character that is none of theirs, or that end inside a number"
        )
    ends = np.flatnonzero(last) + 1
    lengths = np.diff(ends, prepend=0)
    if lengths.max() > _MOST_CHARACTERS:
        raise ValueError("compressed runs with a number that is too large")
    starts = ends - lengths
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * places), starts)
    numbers -= (codes[last] >> 4 & 1) << (5 * lengths)
    if abs(numbers).max() > _LARGEST:
        raise ValueError("compressed runs with a number that is too large")
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers
