"""A confusion matrix as a picture: one row per true class, one column per predicted class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_WHITE, _BLUE = np.array([255, 255, 255]), np.array([0, 68, 136])
_LARGEST = 1200
_NUMBERED = 20
"""More classes than this get no number in each cell."""


def drawn(matrix: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.uint8]:
    """uint8 (height, width, 3). A cell is the darker, the larger its share of the row is."""
    count = len(names)
    cell = max(1, min(48, _LARGEST // count))
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    pixels = (_WHITE + shares[..., None] * (_BLUE - _WHITE)).astype(np.uint8)
    cells = Image.fromarray(pixels).resize((count * cell, count * cell), Image.Resampling.NEAREST)
    font: Any = ImageFont.load_default(max(8, min(14, cell - 2)))
    labelled = cell >= 10
    margin = 12 + int(max(map(font.getlength, names))) if labelled else 0
    canvas = Image.new("RGB", (margin + cells.width + 2, margin + cells.height + 26), "white")
    canvas.paste(cells, (margin, 26))
    pen = ImageDraw.Draw(canvas)
    pen.text((margin, 6), "rows: true class, columns: predicted class", fill="black", font=font)
    for row, name in enumerate(names) if labelled else ():
        middle = row * cell + cell // 2
        pen.text((margin - 6, 26 + middle), name, fill="black", font=font, anchor="rm")
        _write_upwards(canvas, (margin + middle, 32 + cells.height), name, font)
    for row, column in np.argwhere(matrix > 0) if count <= _NUMBERED else ():
        at = (margin + column * cell + cell // 2, 26 + row * cell + cell // 2)
        colour = "white" if shares[row, column] > 0.5 else "black"
        pen.text(at, str(matrix[row, column]), fill=colour, font=font, anchor="mm")
    return np.asarray(canvas)


def _write_upwards(canvas: Image.Image, top: tuple[int, int], text: str, font: Any) -> None:
    """Turned by a right angle, its end at `top`."""
    length = int(font.getlength(text)) + 2
    strip = Image.new("RGB", (length, 18), "white")
    ImageDraw.Draw(strip).text((length, 9), text, fill="black", font=font, anchor="rm")
    canvas.paste(strip.rotate(90, expand=True), (top[0] - 9, top[1]))
