"""What is printed: the answer of a command, which somebody asked for, and the words of a run, which it can do
without.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from lbtrain.errors import SaveFailed

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a write that finds no room raises, without the name of the file."""


@contextlib.contextmanager
def while_output_is_read() -> Iterator[None]:
    """For a command whose answer is what it prints. Ends with the shell's code of SIGPIPE where standard
    output is read no further, as by `| head`. Raises SaveFailed where its disk is full.
    """
    try:
        yield
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        _to_nowhere(sys.stdout)
        sys.exit(141)
    except OSError as error:
        if error.errno not in FULL or error.filename:
            raise
        _to_nowhere(sys.stdout)
        raise SaveFailed(f"standard output could not be written: {error.strerror}") from error


def say(text: str, *, error: bool = False) -> None:
    """Prints a line of a run, which goes on where nobody reads it any more, or its log's disk is full."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


def drop_what_nobody_reads() -> None:
    """At the end of a run: what could not be printed would change its exit code."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            _to_nowhere(stream)


def _to_nowhere(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
