"""Which files are taken for images by their name, and which formats are read whatever the name says."""

import functools
import re

from PIL import Image

_NOT_READ = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "PDF", "WMF"}
"""Formats that are no raster images, need a program or package beside Pillow (EPS starts Ghostscript), or
that Pillow only identifies.
"""

_OF_SYSTEMS = re.compile(
    r"\..*|@[a-z].*|#(recycle|snapshot)|__MACOSX|lost\+found|\$RECYCLE\.BIN|RECYCLER"
    r"|System Volume Information",
    re.IGNORECASE,
)
"""Folders that systems put beside photos: hidden ones, the thumbnails and bins of network stores (@eaDir,
@Recycle), what macOS packs, what a check of a disk found. A class may be called @, and an image @name.jpg.
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


def is_hidden(path: str) -> bool:
    """Whether a file is hidden, or one of the folders on its path is."""
    *folders, name = path.split("/")
    return name.startswith(".") or any(map(is_hidden_folder, folders))


def is_hidden_folder(name: str) -> bool:
    """Whether what lies in a folder is the system's, not the data set's."""
    return _OF_SYSTEMS.fullmatch(name) is not None
