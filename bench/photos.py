"""Photo-like images drawn by their numbers, for measurements that need no photos at hand."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

_COUNT = 64
_OCTAVES = 8


def jpegs(photos: Path | None) -> Iterator[tuple[str, bytes]]:
    """(name, encoded) of each JPEG in a tar file, or of 64 drawn ones."""
    if photos is None:
        yield from ((f"{number:02}.jpg", _drawn(number)) for number in range(_COUNT))
        return
    with tarfile.open(photos) as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                yield Path(member.name).name, tar.extractfile(member).read()  # type: ignore[union-attr]


def _drawn(number: int) -> bytes:
    """Noise in octaves, each of four fifths of the amplitude of the one before it: about 597 x 481 pixels in
    173 kB, 4.8 bits a pixel.
    """
    random = np.random.default_rng([20, number])
    width, height = (int(side) for side in random.integers((540, 430), (640, 530)))
    picture = np.full((height, width, 3), 128.0)
    for octave in range(_OCTAVES):
        rows, columns = 2 << octave, 3 << octave
        noise = Image.fromarray(random.integers(0, 256, (rows, columns, 3), np.uint8))
        scaled = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float64)
        picture += (scaled - 128) / 1.25**octave
    buffer = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
