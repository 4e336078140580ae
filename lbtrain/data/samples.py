"""Samples as webdataset writes them into tar files: KEY.jpg with its label in KEY.cls or KEY.json, and
whatever else has the same key. A key is the path up to the first dot of the file name; endings are the same
in upper and lower case.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from lbtrain.data.formats import is_image
from lbtrain.data.index import Notes, composed, printable
from lbtrain.data.tar_scan import Member
from lbtrain.errors import DataError

_JSON_FIELDS = ("label", "cls")
Reader = Callable[[Member], bytes]
Labels = Mapping[str, str]
"""Image name -> label, as text."""
_Sample = list[tuple[str, str]]
"""(ending in lower case, name) of each part."""
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.0*)?")
"""Also as 3.0, as programs that only know floating-point numbers write them."""
_LIKE_NUMBERS = re.compile(r"[-+0-9.,;\s\[\]]+")


def labels_of_samples(files: Mapping[str, Member], read: Reader, where: str, notes: Notes) -> Labels | None:
    """The label of each sample's image; None for a tar file that holds none. Raises DataError for an image
    without a label, a sample of two images, and a label that is neither a number nor a text.
    """
    samples = samples_of(files)
    sources = {key: _label_part(parts, files, read, where) for key, parts in samples.items()}
    if not any(sources.values()) and not any(name.lower().endswith(".cls") for name in files):
        return None
    found: dict[str, str] = {}
    for key, parts in samples.items():
        images = _images(parts)
        if not images:
            notes.add("left out, samples without an image", key)
            continue
        image, part, label = images[0], *(sources[key] or ("", ""))
        _check_sample(where, key, images, label)
        found[image] = label
        for _, name in parts:
            if name not in (image, part):
                notes.add("left out, other parts of samples", name)
    return found


def samples_of(names: Iterable[str]) -> dict[str, _Sample]:
    """The parts of each sample by its key, without hidden files."""
    samples: dict[str, _Sample] = defaultdict(list)
    for name in names:
        folder, slash, base = name.rpartition("/")
        key, _, ending = base.partition(".")
        if key:
            samples[folder + slash + key].append((ending.lower(), name))
    return samples


def _label_part(
    parts: _Sample, files: Mapping[str, Member], read: Reader, where: str
) -> tuple[str, str] | None:
    """(part, label) of a sample, a number before a name, or None. Raises DataError for two numbers or two
    names that differ.
    """
    found = [
        (name, label)
        for ending, labels_of in (("cls", _text_labels), ("json", _json_labels))
        for name in (name for each, name in parts if each == ending)
        for label in labels_of(read(files[name]))
    ]
    first: dict[type, tuple[str, str]] = {}
    for part, label in found:
        meaning = _meaning(label)
        other_part, other = first.setdefault(type(meaning), (part, label))
        if _meaning(other) != meaning:
            raise DataError(
                f"{where}: the sample of {printable(part)} has two labels, {other} in "
                f"{printable(other_part)} and {label} in {printable(part)}"
            )
    return first.get(int) or first.get(str)


def _meaning(label: str) -> int | str:
    return int(label) if _NUMBER.fullmatch(label) else composed(label)


def _check_sample(where: str, key: str, images: list[str], label: str) -> None:
    if len(images) > 1:
        raise DataError(
            f"{where}: the sample {printable(key)} has {len(images)} images: "
            f"{', '.join(map(printable, images[:3]))}. The key of a sample ends at the first dot"
        )
    if not label:
        raise DataError(
            f"{where}: {printable(images[0])} has no label. It is expected in {printable(key)}.cls, or as "
            f"{' or '.join(_JSON_FIELDS)} in {printable(key)}.json, as a number or a name"
        )


def _images(parts: _Sample) -> list[str]:
    """Those with a plain ending (x.jpg, not x.seg.png), or else all."""
    images = [(ending, name) for ending, name in parts if is_image(name)]
    return [name for ending, name in images if "." not in ending] or [name for _, name in images]


def _text_labels(data: bytes) -> list[str]:
    """Nothing for what is no text: numbers packed as bytes, pickles. A number is without .0 behind it."""
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return []
    number = _NUMBER.fullmatch(text)
    return [text.removesuffix(number[1] or "") if number else text] if text and text.isprintable() else []


def _json_labels(data: bytes) -> list[str]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return []
    fields = content if isinstance(content, dict) else {_JSON_FIELDS[0]: content}
    found: list[str] = []
    for value in map(fields.get, _JSON_FIELDS):
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            found.append(str(value))
        elif isinstance(value, str):
            found += _text_labels(value.encode(errors="surrogateescape"))
    return found


def note_numbers(labels: Labels, notes: Notes) -> None:
    """Of labels that are names: those that may have been meant as numbers, or lists of them."""
    for name, label in labels.items():
        if _LIKE_NUMBERS.fullmatch(label):
            notes.add("with a label of digits, taken for a name as others are none", name)


def are_numbers(labels: Labels) -> bool:
    return all(_NUMBER.fullmatch(label) for label in labels.values())
