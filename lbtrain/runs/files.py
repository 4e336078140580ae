"""Files of a run, as they are written and read back: replaced in one go and never through a link, read within
bounds. What a disk does not take is SaveFailed, with the file's name.
"""

import contextlib
import csv
import io
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lbtrain.errors import SaveFailed

MAX_BYTES = 16 * 2**20
"""Of a file that is read whole: many times what any of them holds."""


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Raises SaveFailed where the disk is full or the file may not be written."""
    try:
        yield
    except SaveFailed:
        raise
    except OSError as error:
        raise SaveFailed(
            f"{path} could not be written ({error.strerror or error}): make room or give the right to write "
            "there, and give the same command again"
        ) from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file, or a link, in one go: a reader, or a crash, finds the old content or the new, never
    half of it. A file name in a text keeps its bytes, whatever they are. What is in /dev (stdout, null) is
    written to and not replaced. Raises SaveFailed.
    """
    content = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    new = path.with_name(path.name + ".new")
    with saving(path):
        if path.is_relative_to("/dev"):
            path.write_bytes(content)
            return
        new.unlink(missing_ok=True)
        with new.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """With a header: `columns`, or those of the first row. Numbers as Python writes them, so that they are
    read back exactly.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0] if rows else ()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_png(picture: NDArray[np.uint8]) -> bytes:
    """Of a picture (height, width, 3)."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "png")
    return content.getvalue()


def open_to_append(path: Path) -> int:
    """A file descriptor, for reading too. Raises OSError for a link, and for what is no file."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def open_to_read(path: Path) -> io.BufferedReader:
    """Raises OSError as `open` does, and for what is no regular file: a pipe or a device may have no end."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is not a file")
    return file


def read_whole(path: Path, *, most: int = MAX_BYTES) -> bytes:
    """Raises OSError as `open_to_read` does, and for more than `most` bytes."""
    with open_to_read(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"it has more than {most} bytes")
    return content


def read_object(path: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object that has these names with values of these types; a mapping stands for an object in it.
    Raises OSError, or ValueError with what is wrong.
    """
    try:
        value = json.loads(read_whole(path))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    check_kinds(value, kinds)
    return value


def check_kinds(value: dict[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raises ValueError as `read_object` does."""
    for name, kind in kinds.items():
        if not isinstance(value.get(name), dict if isinstance(kind, Mapping) else kind):
            raise ValueError(f"it lacks {name}, or has another type of it")
        if isinstance(kind, Mapping):
            check_kinds(value[name], kind)
