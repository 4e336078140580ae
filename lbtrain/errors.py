"""What can go wrong for a user, each with the exit code that a scheduler or a script can act on.

2  the recipe, an override or the plan is invalid (nothing was started)
3  the processes that run are not the ones that were requested
4  another rank, its host or its launcher was lost; the same command resumes from the newest checkpoint
5  a loss or a gradient is no longer finite
6  an image or an annotation cannot be read
7  a checkpoint or another file could not be written (disk full, no right); the checkpoints before are whole
8  this host has too few resources: open files, shared memory, memory for loader processes
75 stopped by a signal after a checkpoint was saved; run the same command again (EX_TEMPFAIL in sysexits.h)
"""

import contextlib
from collections.abc import Iterator

EXTRAS = {
    "accelerate": "accelerate",
    "deepspeed": "deepspeed",
    "matplotlib": "tools",
    "pyarrow": "parquet",
    "pycocotools": "detection",
    "scipy": "tools",
    "sklearn": "tools",
}
"""Every optional import with the extra of this distribution that installs it. Each is imported where it is
used, so that the rest works without it.
"""


class UserError(Exception):
    """An error whose message is all that a user needs: one paragraph with the value and a suggested fix."""

    exit_code = 1


class RecipeError(UserError, ValueError):
    """An invalid key, value or combination of values."""

    exit_code = 2


class MissingPackage(RecipeError, ImportError):
    """A feature needs an optional package that is not installed."""


@contextlib.contextmanager
def naming_the_extra() -> Iterator[None]:
    """Turns a failed import of an optional package into MissingPackage, which says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise MissingPackage(
            f"{package} is not installed, and this needs it: pip install 'lbtrain[{EXTRAS[package]}]'"
        ) from error


@contextlib.contextmanager
def naming_what_is_closed(setting: str) -> Iterator[None]:
    """Turns the refusal of a file or folder that `setting` leads to into RecipeError: pathlib's questions
    (is_dir, exists) raise it as well.
    """
    try:
        yield
    except PermissionError as error:
        raise RecipeError(f"{setting}: {error.filename} cannot be read ({error.strerror})") from error


class LaunchError(UserError, RuntimeError):
    """The processes that run are not the ones that were requested."""

    exit_code = 3


class RankLost(UserError, RuntimeError):
    """A part of the job is gone. Not raised: the ranks that are left exit with its code wherever they wait
    (lbtrain.faults.watchdog).
    """

    exit_code = 4


class Diverged(UserError, ArithmeticError):
    """A loss or a gradient became NaN or infinite."""

    exit_code = 5


class DataError(UserError, ValueError):
    """An image or an annotation, named in the message, that cannot be read or is impossible. Raised by the
    rank that met it alone.
    """

    exit_code = 6


def reason_of(error: BaseException) -> str:
    """What a library raised, as the end of a sentence: its first line, or its kind where it has no words."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class SaveFailed(UserError, OSError):
    """The disk did not take a checkpoint."""

    exit_code = 7


class HostError(UserError, RuntimeError):
    """A host has too little of what a run needs. Raised by the rank that met it alone."""

    exit_code = 8


_SHORTAGES = {
    "Too many open files": "raise the limit, for example with ulimit -n 4096",
    "received 0 items of ancdata": "too many open files: raise the limit, for example with ulimit -n 4096",
    "shared memory": "give /dev/shm more room (docker run --shm-size=8g), or lower data.workers",
    "Cannot allocate memory": "give the host more memory, or lower data.workers",
}
"""What the system or torch says, and what helps."""


@contextlib.contextmanager
def naming_the_shortage() -> Iterator[None]:
    """Turns what a host with too little of something answers into HostError, with the remedy."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        said = (error.strerror if isinstance(error, OSError) else "") or str(error)  # not a file's name
        remedy = next((remedy for words, remedy in _SHORTAGES.items() if words in said), "")
        if isinstance(error, UserError) or not remedy:
            raise
        raise HostError(f"{str(error).strip().splitlines()[-1]}: {remedy}") from error


class Preempted(UserError):
    """Stopped by a signal after everything was saved."""

    exit_code = 75
