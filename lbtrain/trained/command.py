"""What the commands for trained models have in common: words of their command lines, and where they write."""

import argparse
import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from lbtrain.errors import SaveFailed
from lbtrain.runs.files import saving


def parser_of(command: str, doc: str | None) -> argparse.ArgumentParser:
    """With the run, and which of its weights. `doc` is the text of --help."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(f"lbtrain {command}", description=doc, formatter_class=as_written)
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT", help="a run directory, or a checkpoint file")
    text = "the weights of the last step, where the run also kept an average of them"
    parser.add_argument("--raw-weights", action="store_true", help=text)
    return parser


@contextlib.contextmanager
def naming_out() -> Iterator[None]:
    """Adds the other remedy to SaveFailed: a run directory may be another user's."""
    try:
        yield
    except SaveFailed as error:
        raise SaveFailed(f"{error}, or name another place with --out") from error


def prepare_folder(folder: Path) -> None:
    """Makes the folder that will be written to, before the work. Raises SaveFailed where nothing can be
    written there.
    """
    with naming_out(), saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
