"""Samples as webdataset writes them into tar files: KEY.jpg with its label in KEY.cls or KEY.json, and
whatever else has the same key. A key is the path up to the first dot of the file name.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping

from lbtrain.data.formats import is_image
from lbtrain.data.index import Notes, printable
from lbtrain.data.tar_scan import Member
from lbtrain.errors import DataError

_JSON_FIELDS = ("label", "cls")
Reader = Callable[[Member], bytes]
Labels = Mapping[str, str]
"""Image name -> label, as text."""


def labels_of_samples(files: Mapping[str, Member], read: Reader, where: str, notes: Notes) -> Labels | None:
    """The label of each sample's image; None for a tar file that holds none. Raises DataError for an image
    without a label, a sample of two images, and a label that is neither a number nor a text.
    """
    samples: dict[str, dict[str, str]] = defaultdict(dict)
    for name in files:
        folder, slash, base = name.rpartition("/")
        key, _, ending = base.partition(".")
        samples[folder + slash + key][ending] = name
    if not _are_labelled(samples, files, read):
        return None
    found: dict[str, str] = {}
    for key, parts in samples.items():
        if key.rpartition("/")[2]:  # else a hidden file
            _add_sample(found, key, parts, files, read, where, notes)
        else:
            for name in parts.values():
                notes.add("left out, hidden", name)
    return found


def _are_labelled(samples: dict[str, dict[str, str]], files: Mapping[str, Member], read: Reader) -> bool:
    """By any .cls, or by a label in the .json of the first image that has one."""
    if any("cls" in parts for parts in samples.values()):
        return True
    first = (parts for parts in samples.values() if "json" in parts and _images(parts))
    return any(_json_label(read(files[parts["json"]])) is not None for parts in [next(first, None)] if parts)


def _add_sample(
    found: dict[str, str],
    key: str,
    parts: dict[str, str],
    files: Mapping[str, Member],
    read: Reader,
    where: str,
    notes: Notes,
) -> None:
    images = _images(parts)
    if not images:
        notes.add("left out, samples without an image", key)
        return
    if len(images) > 1:
        raise DataError(f"{where}: the sample {printable(key)} has {len(images)} images: {', '.join(images)}")
    source = next((ending for ending in ("cls", "json") if ending in parts), None)
    data = read(files[parts[source]]) if source else b""
    label = _json_label(data) if source == "json" else data.decode(errors="replace").strip() or None
    if label is None:
        raise DataError(
            f"{where}: {printable(images[0])} has no label. It is expected in {printable(key)}.cls, or as "
            "label or "
            f"cls in {printable(key)}.json"
        )
    found[images[0]] = label
    for name in set(parts.values()) - {images[0], parts[source] if source else ""}:
        notes.add("left out, other parts of samples", name)


def _images(parts: dict[str, str]) -> list[str]:
    """Those with a plain ending (x.jpg, not x.seg.png), or else all."""
    images = {ending: name for ending, name in parts.items() if is_image(name)}
    return [name for ending, name in images.items() if "." not in ending] or list(images.values())


def _json_label(data: bytes) -> str | None:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for field in _JSON_FIELDS if isinstance(content, dict) else ():
        value = content.get(field)
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
    return None


def are_numbers(labels: Labels) -> bool:
    return all(re.fullmatch("[0-9]{1,9}", label) for label in labels.values())
