"""Images in tar files, read at random without unpacking: where each member starts and how long it is, found
once and kept.

timm's own tar reader was not taken: it shares one file position among the forked loader workers, holds an
object per member in each, and its index is neither checked against the files nor written in one go.
"""

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lbtrain.data.progress import Progress
from lbtrain.errors import RecipeError


class TarMembers:
    """Images in one tar file (CLASS/IMAGE inside) or several (the same, or one file per class with the images
    directly inside).

    The class of an image is the last folder of its path, or the tar file's name where there is none. Ordered
    as timm orders files.
    """

    def __init__(self, tars: Sequence[Path]):
        index = _read_index(tars) or _keep_index(tars, _scan(tars))
        self._tars = [str(path) for path in tars]
        self._shards, self._starts, self._sizes, self._names = (
            index[key] for key in ("shards", "starts", "sizes", "names")
        )
        self.labels = index["labels"]
        self.classes: Sequence[str] | None = [os.fsdecode(name) for name in index["classes"].tolist()]
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        shard, size = int(self._shards[index]), int(self._sizes[index])
        if shard not in self._files:
            self._files[shard] = os.open(self._tars[shard], os.O_RDONLY | os.O_CLOEXEC)
        # pread leaves the position alone, so that workers may share what was opened before they were forked.
        return os.pread(self._files[shard], size, int(self._starts[index]))

    def name(self, index: int) -> str:
        return f"{self._tars[int(self._shards[index])]}:{os.fsdecode(self._names[index].item())}"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_files": {}}


Index = dict[str, NDArray[Any]]
"""Of each image: shards, starts, sizes, labels, names; and the names of the classes. `stamp` says of which
files in which state.
"""


def _scan(tars: Sequence[Path]) -> Index:
    from timm.utils.misc import natural_key

    progress = Progress(f"indexing {tars[0].parent}", sum(path.stat().st_size for path in tars))
    found = [member for number, path in enumerate(tars) for member in _members(number, path, progress)]
    if not found:
        raise RecipeError(
            f"{', '.join(map(str, tars[:3]))}: no images in the tar files; members are expected as "
            "CLASS/IMAGE.jpg"
        )
    found.sort(key=lambda member: (natural_key(member[0]), natural_key(member[1])))
    classes = sorted({member[0] for member in found}, key=natural_key)
    label_of = {name: label for label, name in enumerate(classes)}
    names, shards, starts, sizes = zip(*(member[1:] for member in found), strict=True)
    return {
        "shards": np.array(shards, np.int32),
        "starts": np.array(starts, np.int64),
        "sizes": np.array(sizes, np.int64),
        "labels": np.array([label_of[member[0]] for member in found], np.int64),
        "names": np.array([os.fsencode(name) for name in names]),
        "classes": np.array([os.fsencode(name) for name in classes]),
        "stamp": np.array(_stamp(tars)),
    }


def _members(shard: int, path: Path, progress: Progress) -> Iterator[tuple[str, str, int, int, int]]:
    """(class, name, shard, start, size) of the images in one tar file, with a line of progress now and then."""
    from timm.data.readers.img_extensions import get_img_extensions

    extensions, at = get_img_extensions(as_set=True), 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                if (
                    member.isfile()
                    and not member.issparse()
                    and os.path.splitext(name)[1].lower() in extensions
                ):
                    group = os.path.basename(folder) if folder not in ("", ".") else path.stem
                    yield group, member.name, shard, member.offset_data, member.size
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep an object per member
                progress.add(member.offset_data - at)
                at = member.offset_data
    except (tarfile.TarError, OSError) as error:
        raise RecipeError(
            f"{path}: not a plain, whole tar file ({error}); a compressed one cannot be read at random: "
            "unpack it"
        ) from error


def _stamp(tars: Sequence[Path]) -> str:
    """The files, their sizes and times: an index with another stamp is stale."""
    dataset_info = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in tars]
    return hashlib.sha256(repr(dataset_info).encode()).hexdigest()


def _cache_file(tars: Sequence[Path]) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lbtrain" / "tar"
    return folder / (
        hashlib.sha256("\n".join(str(path.resolve()) for path in tars).encode()).hexdigest()[:24] + ".npz"
    )


def _read_index(tars: Sequence[Path]) -> Index | None:
    """The kept index, if it is whole and the files have not changed since."""
    try:
        with np.load(_cache_file(tars)) as kept:
            index = dict(kept)
    except (
        Exception
    ):  # not there, cut off, damaged: np.load raises whatever its parts do, and all it costs is a scan
        return None
    return index if str(index.get("stamp")) == _stamp(tars) else None


def _keep_index(tars: Sequence[Path], index: Index) -> Index:
    """Written beside and renamed: readers, other ranks among them, find a whole index or none. A place that
    cannot be written is none.
    """
    path = _cache_file(tars)
    new = path.with_name(f"{path.stem}.{os.uname().nodename}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            np.savez(file, **index)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
    return index
