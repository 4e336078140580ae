"""What a data set says of itself before a run: how many images of which classes each split has, a
fingerprint, and everything that was left out, linked, repeated, merged or guessed on the way to it.
"""

import bisect
import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbtrain.errors import RecipeError

_NAMES_SHOWN = 3
_SAMPLED = 64
_MOST_BYTES = 64 << 20
_DIGITS = re.compile("[0-9]+")


def natural_key(name: str) -> tuple[str, str]:
    """Orders 2 before 10 and ignores case, as timm's readers do, and accents as if they were composed; names
    that tie there (A and a, 1 and 01) are ordered by their characters, so that the order is the same in every
    process and on every file system.
    """
    return _DIGITS.sub(_number, composed(name).lower()), name


def composed(name: str) -> str:
    """With each letter and its accents as one character, whichever way a file system writes them."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def class_order(names: Iterable[str]) -> list[str]:
    """The names of classes in natural order. Raises RecipeError for two that are the same to a reader."""
    order = sorted(set(names), key=natural_key)
    first: dict[str, str] = {}
    for name in order:
        if (other := first.setdefault(composed(name).strip(), name)) != name:
            raise RecipeError(
                f"two classes are named {printable(name.strip())}, and differ only in how an accent is "
                f"written or in spaces around it ({name!a} and {other!a}): rename one of them"
            )
    return order


def _number(match: re.Match[str]) -> str:
    """Digits as text that sorts by value: how many there are without leading zeros, then the digits."""
    digits = match[0].lstrip("0")
    return f"\0{chr(len(digits))}{digits}"


@dataclass(frozen=True)
class Note:
    """Things that were treated alike, and not just read: how many, and the first three by name."""

    what: str
    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.names) else ""
        return f"{self.count:,} {self.what}: {', '.join(map(printable, self.names))}{more}"


class Notes:
    """Collects names under what was done with them. The first three are the first in natural order."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = defaultdict(int)
        self._first: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def add(self, what: str, name: str) -> None:
        self._counts[what] += 1
        bisect.insort(self._first[what], natural_key(name))
        del self._first[what][_NAMES_SHOWN:]

    def collected(self) -> tuple[Note, ...]:
        return tuple(
            Note(what, self._counts[what], tuple(name for _, name in self._first[what]))
            for what in sorted(self._counts)
        )


def printable(name: str) -> str:
    """A name that any terminal takes: bytes that are no UTF-8 and control characters are escaped."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file. Raises ValueError for a name that it has twice, of which Python would keep
    the last value.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, count),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"one object has {name!r} {count} times")
    return found


def digests(**parts: Any) -> dict[str, str]:
    """Of each part, 16 hexadecimal digits of the SHA-256 of its array, texts or printed value."""
    return {name: hashlib.sha256(_content(part)).hexdigest()[:16] for name, part in parts.items()}


def sampled(sizes: NDArray[np.int64], read: Callable[[int], bytes]) -> list[str]:
    """What tells other images of the same names and sizes: the SHA-256 of 64 of them, evenly spread, or of
    fewer or none where these are more than 64 MiB to read. They are read in every run, as images may be
    written anew in their places, which no folder shows. One that cannot be read counts as empty: whether that
    matters is for the run to decide.
    """
    number, last = min(len(sizes), _SAMPLED), len(sizes) - 1

    def spread() -> list[int]:
        return [place * last // max(number - 1, 1) for place in range(number)]

    while number and sizes[spread()].sum() > _MOST_BYTES:
        number //= 2
    return [hashlib.sha256(_read(read, place)).hexdigest() for place in spread()]


def _read(read: Callable[[int], bytes], place: int) -> bytes:
    try:
        return read(place)
    except OSError:
        return b""


def _content(part: Any) -> bytes:
    """Numbers as little-endian 64-bit, texts as UTF-8 with their accents composed, whatever the file system
    does.
    """
    if isinstance(part, np.ndarray) and part.dtype.kind in "iu" and part.dtype.itemsize > 1:
        return part.astype("<i8").tobytes()
    if isinstance(part, np.ndarray) and part.dtype.kind == "S":
        names = part.tolist()
        return b"\0".join(names if all(map(bytes.isascii, names)) else map(_composed, names))
    if isinstance(part, np.ndarray):
        return repr(part.shape).encode() + part.tobytes()
    return _composed(repr(part).encode(errors="surrogateescape"))


def _composed(name: bytes) -> bytes:
    return composed(name.decode(errors="surrogateescape")).encode(errors="surrogateescape")


@dataclass(frozen=True)
class SplitIndex:
    """The index of one split. `classes`: their names in the order of their numbers, or None where there are
    only numbers."""

    num_images: int
    num_classes: int
    classes: Sequence[str] | None
    digests: Mapping[str, str]
    """Of what the split consists of: the names, labels and sizes of its images and the bytes of some, or
    the pixels of all.
    """
    notes: tuple[Note, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The same wherever the data are the same: paths, times and the order on disk do not enter."""
        return digests(parts=[self.num_images, *sorted(self.digests.items())])["parts"]

    def __str__(self) -> str:
        if not self.num_classes:
            return f"{self.num_images:,} images, none with a class"
        last = self.num_classes - 1
        first_name, last_name = (self.classes[0], self.classes[last]) if self.classes else ("", "")
        ends = f"0 {printable(first_name)}".strip() + f" to {last} {printable(last_name)}".rstrip()
        return f"{self.num_images:,} images of {self.num_classes:,} classes, {ends}"


@dataclass(frozen=True)
class DatasetIndex:
    """The index of a data set. `validation` has no images where a run is not evaluated."""

    train: SplitIndex
    validation: SplitIndex

    @property
    def fingerprint(self) -> str:
        return digests(splits=[self.train.fingerprint, self.validation.fingerprint])["splits"]

    def parts(self) -> dict[str, str]:
        """`{split}.examples` and `{split}.{part}` for each of its digests: what ranks compare before the
        first step, and a run with its resumption.
        """
        found = {}
        for name, split in (("train", self.train), ("eval", self.validation)):
            found[f"{name}.examples"] = str(split.num_images)
            found |= {f"{name}.{part}": digest for part, digest in split.digests.items()}
        return found

    def rows(self) -> Iterable[tuple[str, str]]:
        """(heading, text) of every line, for a plan and for the first lines of a run."""
        yield "data fingerprint", self.fingerprint
        for name, split in (("training", self.train), ("validation", self.validation)):
            yield f"{name} images", str(split) if split.num_images else "none: the run is not evaluated"
            for note in split.notes:
                yield f"{name}: note", str(note)
