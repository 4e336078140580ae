"""What is in a tar file, to the end of it: every regular file with its place, and the links resolved.

CPython's tarfile ends quietly at a header that is damaged, unless it is the first one. So the end-of-archive
marker is required here (POSIX.1-1988: blocks of zeros), and nothing behind it.
"""

import posixpath
import tarfile
from pathlib import Path
from typing import NamedTuple

from lbtrain.data.formats import is_image
from lbtrain.data.index import Notes, printable
from lbtrain.data.progress import Progress
from lbtrain.errors import DataError, RecipeError

_MOST_LINKS = 40
_BACKUPS = (b"D", b"M")


class Member(NamedTuple):
    """Where the bytes of a regular file start in the tar file, and how many there are."""

    start: int
    size: int


def scan(path: Path, progress: Progress, notes: Notes) -> dict[str, Member]:
    """The files of a tar file by their normalised names, as unpacking would leave them: of a name that comes
    twice the last one counts, and links lead to the files that they name. Raises RecipeError for what is no
    plain tar file, DataError for one that is cut, damaged or has links out of it.
    """
    files: dict[str, Member] = {}
    links: dict[str, str] = {}
    at, last = 0, ""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                last = member.name
                _add(member, files, links, path, notes)
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep an object per member
                progress.add(member.offset_data - at)
                at = member.offset_data
            end = int(tar.offset)
    except DataError:
        raise
    except (tarfile.TarError, OSError, ValueError) as error:
        if last:
            raise _damaged(path, last, str(error)) from error
        raise RecipeError(
            f"{path}: not a plain, whole tar file ({error}). A compressed one cannot be read at random: "
            "unpack it"
        ) from error
    _check_end(path, end, last)
    return files | _resolved(links, files, path, notes)


def _add(
    member: tarfile.TarInfo, files: dict[str, Member], links: dict[str, str], path: Path, notes: Notes
) -> None:
    if member.isdir():
        return
    if member.type in _BACKUPS:
        raise DataError(
            f"{path}: an incremental or multi-volume backup of GNU tar, whose names tarfile does not read as "
            "they are; write the tar file anew"
        )
    name = _normalised(member.name, path)
    if name in files or name in links:
        notes.add("named twice in a tar file, of which the last counts", name)
        files.pop(name, None)
        links.pop(name, None)
    if member.isfile():
        if member.issparse():
            raise DataError(f"{path}: {printable(name)} is stored as a sparse file; write the tar file anew")
        files[name] = Member(member.offset_data, member.size)
    elif member.issym():
        links[name] = posixpath.join(posixpath.dirname(name), member.linkname)
    elif member.islnk():
        links[name] = member.linkname
    else:
        notes.add("left out, neither a file nor a folder", name)


def _normalised(name: str, path: Path) -> str:
    """Without ./ in front and the like. Raises DataError for a name that leads out of the archive."""
    if name.startswith(("/", ".")) or "/." in name or "//" in name:
        name = posixpath.normpath(name).lstrip("/")
        if name.split("/")[0] == "..":
            raise DataError(f"{path}: {printable(name)} leads out of the archive; write the tar file anew")
    return name


def _damaged(path: Path, last: str, reason: str) -> DataError:
    where = f"behind {printable(last)}" if last else "at its start"
    return DataError(f"{path}: cut or damaged {where} ({reason}); fetch or write it again")


def _check_end(path: Path, end: int, last: str) -> None:
    """Raises DataError unless at least one block of zeros, and nothing else, follows the last member."""
    with path.open("rb") as file:
        file.seek(end)
        marker = file.read(tarfile.BLOCKSIZE)
        if len(marker) < tarfile.BLOCKSIZE or any(marker):
            raise _damaged(path, last, f"no end-of-archive marker at byte {end:,}")
        while rest := file.read(1 << 20):
            if any(rest):
                raise _damaged(
                    path, last, "data follows the end-of-archive marker: are these tar files joined?"
                )


def _resolved(links: dict[str, str], files: dict[str, Member], path: Path, notes: Notes) -> dict[str, Member]:
    """The files that links lead to, by the names of the links; of links to folders, every file below them."""
    found: dict[str, Member] = {}
    folders: dict[str, str] = {}
    for name in sorted(links):
        target = _target(name, links, path)
        notes.add("reached through a link", name)
        if target in files:
            found[name] = files[target]
        else:
            folders[name] = target
    for name, target in folders.items():
        if f"{name}/".startswith(f"{target}/") or target == ".":
            raise DataError(f"{path}: the link {printable(name)} leads back to a folder that it lies in")
        below = [each for each in (*files, *found) if each.startswith(f"{target}/")]
        if not below and (is_image(name) or "." not in posixpath.basename(name)):
            raise DataError(
                f"{path}: the link {printable(name)} leads to {printable(links[name])}, which is not in the "
                "archive. Write the tar file with the files in place of links (tar --dereference)"
            )
        every = files | found
        found |= {name + each[len(target) :]: every[each] for each in below}
    return found


def _target(name: str, links: dict[str, str], path: Path) -> str:
    """Where a link leads, with the links on the way to it followed too."""
    at = name
    for _ in range(_MOST_LINKS):
        parts = at.split("/")
        on_the_way = ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
        link = next((each for each in on_the_way if each in links), None)
        if link is None:
            return at
        if links[link].startswith("/"):
            return links[link]
        at = posixpath.normpath(links[link] + at[len(link) :])
    raise DataError(f"{path}: the link {printable(name)} leads round in a circle")
