"""An index of folders that is kept between runs is the one that a walk would make now, or is not used."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lbtrain.data import folder, index_cache
from lbtrain.data.folder import Files, make_index
from lbtrain.errors import DataError

CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda root: (root / "ant/new.png").write_bytes(b"new"),
    "added in a nested folder": lambda root: (root / "bee/far/away/new.png").write_bytes(b"new"),
    "added in a linked folder": lambda root: (root.parent / "else/new.png").write_bytes(b"new"),
    "added, and the folder's time put back": lambda root: with_times_of(root / "ant", "new.png"),
    "a class": lambda root: (root / "cow").mkdir() or (root / "cow/1.png").write_bytes(b"new"),
    "removed": lambda root: (root / "ant/2.png").unlink(),
    "a class removed": lambda root: shutil.rmtree(root / "bee"),
    "renamed": lambda root: (root / "ant/2.png").rename(root / "ant/3.png"),
    "replaced": lambda root: shutil.move(root.parent / "other.png", root / "ant/2.png"),
    "written anew in its place": lambda root: (root / "ant/2.png").write_bytes(b"longer than before"),
    "written anew where a link leads": lambda root: (root.parent / "one.png").write_bytes(b"longer"),
    "text added": lambda root: (root / "ant/notes.txt").write_text("x"),
    "a link that was left out leads to a folder": lambda root: (root.parent / "later").mkdir(),
    "a linked folder is another": lambda root: relink(root / "ant/linked", root / "bee"),
}


def with_times_of(above: Path, name: str) -> None:
    times = above.stat()
    (above / name).write_bytes(b"new")
    os.utime(above, ns=(times.st_atime_ns, times.st_mtime_ns))


def relink(link: Path, target: Path) -> None:
    link.unlink()
    link.symlink_to(target)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Two classes with a nested folder, links, and files to leave out; its folders count as settled."""
    root = tmp_path / "data"
    for name in ("ant/2.png", "ant/10.png", "ant/.hidden.png", "bee/far/away/\u00e9.jpg", "bee/\udcff.jpg",
                 "bee/read.me", "top.png", "\u00e9t\u00e9/A.png", "\u00e9t\u00e9/a.png", "../else/1.png",
                 "../one.png", "../other.png"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode(errors="surrogateescape"))
    (root / "empty").mkdir()
    (root / "ant/linked").symlink_to(tmp_path / "else")
    (root / "ant/linked.png").symlink_to(tmp_path / "one.png")
    (root / "ant/nowhere").symlink_to(tmp_path / "later")
    monkeypatch.setattr(index_cache, "SETTLED_NS", 0)
    return root


@pytest.fixture
def walks(monkeypatch) -> list[Path]:
    made: list[Path] = []
    monkeypatch.setattr(folder, "make_index", lambda root: made.append(root) or make_index(root))
    return made


def contents(files: Files) -> list[object]:
    arrays = files.names, files.sizes, files.labels
    return [files.classes, files.notes, *((array.dtype, array.tolist()) for array in arrays)]


def fresh(root: Path, monkeypatch) -> list[object]:
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root.parent / "no cache yet"))
        return contents(Files(root))


def test_the_index_of_an_unchanged_tree_is_read_without_listing_a_folder(root, monkeypatch):
    first = contents(Files(root))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", None)
        again = Files(root)
        assert contents(again) == first
        assert [again.read(number) for number in range(len(again))]
    assert fresh(root, monkeypatch) == first


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(root, monkeypatch, change):
    before = contents(Files(root))
    CHANGES[change](root)
    now = contents(Files(root))
    assert now != before
    assert now == fresh(root, monkeypatch)


def test_a_linked_image_that_is_gone_is_named_as_by_a_walk(root):
    Files(root)
    (root.parent / "one.png").unlink()
    with pytest.raises(DataError, match=r"ant/linked\.png: the link leads to .*one\.png, which is not there"):
        Files(root)


def cache_of(root: Path) -> Path:
    Files(root)
    return index_cache.cache_file([root])


class Trap:
    def __reduce__(self):
        return os.abort, ()


def test_a_damaged_or_foreign_index_is_made_anew_and_nothing_in_it_is_executed(root, walks):
    path, expected = cache_of(root), contents(Files(root))
    whole = path.read_bytes()
    with np.load(path) as cached:
        index = dict(cached)
    np.savez(root.parent / "trap.npz", **(index | {"names": np.array([Trap()], object)}))
    damaged = [b"", whole[:-50], whole.replace(b"ant/10.png", b"ant/11.png"), pickle.dumps(Trap()),
               (root.parent / "trap.npz").read_bytes()]  # fmt: skip
    for number, data in enumerate(damaged, len(walks) + 1):
        path.write_bytes(data)
        assert contents(Files(root)) == expected
        assert len(walks) == number and path.stat().st_mode & 0o777 == 0o600


def test_an_index_that_another_user_could_have_written_is_not_used(root, walks, monkeypatch):
    path = cache_of(root)
    path.chmod(0o666)
    Files(root)
    assert len(walks) == 2
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    Files(root)
    assert len(walks) == 3


def test_other_formats_make_another_index(root, walks, monkeypatch):
    Files(root)
    monkeypatch.setattr(index_cache, "extensions", lambda: frozenset({".png"}))
    Files(root)
    assert len(walks) == 2


def test_a_folder_that_has_just_changed_is_not_kept(root, walks, monkeypatch):
    """Its times may stay as they are through another change."""
    monkeypatch.setattr(index_cache, "SETTLED_NS", 10**12)
    assert not cache_of(root).exists()
    Files(root)
    assert len(walks) == 2
