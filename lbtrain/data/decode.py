"""Encoded photos -> pixels: only as many as the crop needs.

The format is decided by the content, never by the name (lbtrain.data.formats). The first picture of a file
counts; palettes, grey, CMYK and transparency become RGB as in Pillow; of 12-bit and 16-bit grey the upper
eight bits are taken; 32-bit integer and float modes have no range to scale by, and are rejected.

JPEG is decoded by libjpeg-turbo (simplejpeg) at a half, a quarter or an eighth of its size where what is
cropped from it stays at least as large as asked for; then one antialiased step (bilinear or bicubic), torch's
uint8 form of Pillow's filter. At full size the result is within a level of Pillow's decoder and filter
(bench.input measures it, also for the scaled sizes). Whatever simplejpeg does not take (PNG, WebP, CMYK,
damage) goes through Pillow, whose word on a damaged file is final.
"""

import io
import warnings
from collections.abc import Callable
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from lbtrain.data.formats import formats
from lbtrain.errors import DataError

MAX_PIXELS = 89_478_485
"""An image of more is taken for a decompression bomb; the number of pixels at which Pillow begins to warn."""

T = TypeVar("T")
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation: what shows the image upright."""
_SIDEWAYS = (5, 6, 7, 8)
_TURBO_COLORS = ("YCbCr", "RGB", "Gray")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF and a value."""


class BrokenImage(Exception):
    """Bytes that are no whole image; the message says why, without the path, which the caller knows."""


class Box(NamedTuple):
    """A rectangle of pixels of the whole photo."""

    top: int
    left: int
    height: int
    width: int


class Photo:
    """An encoded image of which the header has been read. Raises BrokenImage if there is none, or if it has
    more than `max_pixels`. Pixels are in the order in which they are stored: EXIF's orientation is left to
    detection.
    """

    def __init__(self, data: bytes, *, interpolation: str = "bilinear", max_pixels: int = MAX_PIXELS):
        if not data:
            raise BrokenImage("the file is empty")
        self._data, self._interpolation, self._max_pixels = data, interpolation, max_pixels
        self._turbo = False
        self._image: Image.Image | None = None
        if data[:2] == b"\xff\xd8":
            self._read_jpeg_header()
        if not self._turbo:
            self._open_with_pillow()
        _check_pixels(self.width, self.height, max_pixels)

    def _read_jpeg_header(self) -> None:
        try:
            self.height, self.width, color, _ = simplejpeg.decode_jpeg_header(self._data)
            self._turbo = color in _TURBO_COLORS
        except ValueError:
            self._turbo = False

    def _open_with_pillow(self) -> None:
        self._image = opened(self._data, self._max_pixels)
        self.width, self.height = self._image.size

    def crop(self, box: Box, height: int, width: int) -> Tensor:
        """The pixels in `box`, resized: uint8 (3, height, width). Raises BrokenImage."""
        scale = 1
        while scale < 8 and box.height >= 2 * scale * height and box.width >= 2 * scale * width:
            scale *= 2
        pixels = self._decoded(scale)
        top, bottom = _scaled(box.top, box.height, scale, pixels.shape[0])
        left, right = _scaled(box.left, box.width, scale, pixels.shape[1])
        # Sliced as an array: torch reads uint8 in this order (channels last) with its vectorised filter.
        region = torch.from_numpy(pixels[top:bottom, left:right]).permute(2, 0, 1)
        if region.shape[1:] == (height, width):
            return region
        return F.interpolate(region[None], (height, width), mode=self._interpolation, antialias=True)[0]

    def _decoded(self, scale: int) -> NDArray[np.uint8]:
        """RGB (rows, columns, 3), 1/scale of the photo a side if the decoder can, rounded up."""
        if self._turbo:
            try:
                return simplejpeg.decode_jpeg(
                    self._data,
                    min_height=-(-self.height // scale),
                    min_width=-(-self.width // scale),
                    min_factor=scale,
                )
            except ValueError:  # a warning of libjpeg's too; Pillow knows which of them leave a whole image
                self._turbo = False
        if self._image is None:
            self._open_with_pillow()
        image = self._image
        assert image is not None
        return rgb(image)


def opened(data: bytes | BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The header of an image in one of the formats that are read. Raises BrokenImage."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    start = file.read(len(_POSTSCRIPT[0]))
    if start in _POSTSCRIPT:
        raise BrokenImage("PostScript is not read: it would have to be run as a program")
    image = _pillow(lambda: _open_unbounded(file))
    _check_pixels(*image.size, max_pixels)
    return image


def upright(image: Image.Image) -> Image.Image:
    """Turned and mirrored as its EXIF orientation says; as it is where that cannot be read. Raises
    BrokenImage.
    """
    _pillow(image.load)  # turns a TIFF itself, after which its header says that it is upright
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else _pillow(lambda: image.transpose(turn))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an upright image by its header alone, without the pixels. Of a PNG whose orientation
    stands behind its pixels, which is rare, the size as it is stored.
    """
    stored_as_shown = isinstance(image, TiffImageFile) or (image.format == "PNG" and "exif" not in image.info)
    turned = not stored_as_shown and _orientation(image) in _SIDEWAYS
    return image.size if turned else image.size[::-1]


def _orientation(image: Image.Image) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception:  # whatever Pillow raises for a damaged header: detectron2 goes on as well
            return 1


def _open_unbounded(file: BinaryIO) -> Image.Image:
    """Pillow's own bound, which no key sets, gives way to ours."""
    bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(file, formats=formats())
    finally:
        Image.MAX_IMAGE_PIXELS = bound


def _check_pixels(width: int, height: int, most: int) -> None:
    if height * width > most:
        raise BrokenImage(
            f"{width} x {height} pixels, more than data.max_pixels={most}: taken for a decompression bomb"
        )


def rgb(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of the first picture, RGB (rows, columns, 3). Raises BrokenImage."""
    return _pillow(lambda: _rgb(image))


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return np.repeat(_upper_bits(image)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise BrokenImage(
            f"32 bits a pixel (mode {image.mode}) have no range to scale by: store 8 or 16 bits"
        )
    return np.array(image.convert("RGB"))


def _upper_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Eight of the 16 bits of a grey image (Pillow's conversion makes all of it white), of 12 in a TIFF of
    12; black is 0, also where the file says that white is.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    grey = (np.array(image) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return 255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey


def whole_image(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Pillow's pixels of an image: RGB (rows, columns, 3). Raises BrokenImage."""
    return rgb(opened(data, max_pixels))


def unreadable(path: str, error: BrokenImage | OSError) -> DataError:
    """What a user is told of an image that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(f"{path}: cannot be read as an image ({reason})")


def _scaled(start: int, length: int, scale: int, limit: int) -> tuple[int, int]:
    """The nearest whole rows (or columns) of the scaled image; at least one."""
    first = min(round(start / scale), limit - 1)
    return first, max(first + 1, min(round((start + length) / scale), limit))


def _pillow(read: Callable[[], T]) -> T:
    """Pillow raises whatever its decoders happen to (OSError, SyntaxError, struct.error, ...) on bytes that
    are no image.
    """
    with warnings.catch_warnings():
        # Of odd EXIF data, palettes, large images: none of them spoils the pixels.
        warnings.simplefilter("ignore")
        try:
            return read()
        except BrokenImage:
            raise
        except Exception as error:
            said = str(error).partition(" <_io")[0]  # without the address of the buffer
            raise BrokenImage(said or type(error).__name__) from error
