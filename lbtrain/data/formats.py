"""Which files are taken for images by their name, and which formats are read whatever the name says."""

import functools

from PIL import Image

_NOT_READ = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "PDF", "WMF"}
"""Formats that are no raster images, need a program or package beside Pillow (EPS starts Ghostscript), or
that Pillow only identifies.
"""


@functools.cache
def formats() -> tuple[str, ...]:
    """The raster formats of this Pillow and its plugins, JPEG and PNG first."""
    Image.init()
    known = [name for name in Image.OPEN if name not in _NOT_READ]
    return tuple(sorted(known, key=lambda name: (name not in ("JPEG", "PNG", "WEBP"), name)))


@functools.cache
def extensions() -> frozenset[str]:
    """The endings of these formats' file names, in lower case: .jpg, .jpeg, .jpe, .jfif, .png, .webp, ..."""
    known = {*formats(), "MPO"}  # a JPEG with more pictures behind the first
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in known)


def is_image(name: str) -> bool:
    """Whether a file is taken for an image by the ending of its name."""
    dot = name.rfind(".")
    return dot >= 0 and name[dot:].lower() in extensions()
