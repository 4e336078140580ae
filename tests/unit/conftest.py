"""What every file of unit tests starts with."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist


@pytest.fixture(autouse=True, scope="module")
def no_process_group_is_left_behind() -> Iterator[None]:
    """A command that a test runs in this process makes a process group of one, which the next file's tests
    would find.
    """
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Closes a folder to this user, as a mode does to all but the administrator, as whom tests may run:
    neither its names nor what lies in it can be asked for.
    """

    def closed(folder: Path) -> None:
        def refusing(name: str, names: bool) -> None:
            call = getattr(os, name)

            def asked(path=".", *more, **options):
                text = str(path)
                if text.startswith(f"{folder}/") or (names and text == str(folder)):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), text)
                return call(path, *more, **options)

            monkeypatch.setattr(os, name, asked)

        for name in ("stat", "scandir", "listdir"):
            refusing(name, names=name != "stat")

    return closed
