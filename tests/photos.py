"""Photo-like images, encoded, and folders of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def natural(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth colours with edges and some noise, uint8 (height, width, 3)."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width]
    waves = [np.sin(down * a + across * b + c) for a, b, c in random.uniform(0.005, 0.06, (3, 3))]
    image = 128 + 80 * np.stack(waves, -1)
    for top, left, *color in random.uniform(0, 1, (4, 5)):
        image[
            int(top * height) : int((top + 0.3) * height) + 1,
            int(left * width) : int((left + 0.2) * width) + 1,
        ] = np.array(color) * 255
    return (image + random.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


def encoded(image: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({"quality": 95} | options if kind == "JPEG" else {}))
    return buffer.getvalue()


def write_folder(root: Path) -> Path:
    """Two classes, 8 photos to train on and 5 to score, of different sizes, one a PNG. Sorted by name they
    stand as timm orders them.
    """
    for split, counts in (("train", {"ant": 5, "bee": 3}), ("val", {"ant": 2, "bee": 3})):
        for group, count in counts.items():
            (root / split / group).mkdir(parents=True)
            for number in range(count):
                image = natural(number + len(split) + ord(group[0]), 60 + 7 * number, 90 - 9 * number)
                kind = "PNG" if number == 2 else "JPEG"
                (root / split / group / f"{number}.{'png' if number == 2 else 'JPEG'}").write_bytes(
                    encoded(image, kind)
                )
    return root
