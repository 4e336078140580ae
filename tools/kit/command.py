"""What every command of the tools has: its options with its docstring as their description, and one way to
fail.
"""

import argparse
import math
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence

from lbtrain.errors import SaveFailed, UserError
from lbtrain.output import FULL

FAULT = 70
"""The exit code of an error that nobody expected (EX_SOFTWARE in sysexits.h): Python's own, 1, is what a tool
answers that found a difference.
"""


def program(command: str) -> str:
    """How a command such as "study sweep" is typed: in a checkout, or where lbtrain is installed."""
    installed = __package__.startswith("lbtrain.")
    return f"lbtrain {command.replace('_', '-')}" if installed else f"python -m tools.{command}"


def typed(command: str, words: Sequence[str]) -> str:
    """The whole command line, as a report records it."""
    return escaped(f"{program(command)} {shlex.join(words)}")


def escaped(text: str) -> str:
    """For a page, a chart or a terminal: bytes of a path that are no UTF-8 are written as \\xe9."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """The options of a command, described by a docstring that keeps its lines."""
    as_written = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(program(command), description=doc, formatter_class=as_written)


def count(text: str) -> int:
    """The type of an option that is a number of things."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def count_or_none(text: str) -> int:
    """The same where 0 has a meaning."""
    return 0 if text == "0" else count(text)


def positive(text: str) -> float:
    """The type of an option that is an amount of something."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def positive_or_zero(text: str) -> float:
    """The same where 0 has a meaning."""
    return 0.0 if _number(text) == 0 else positive(text)


def percentage(text: str) -> float:
    """The type of an option that is a share of a whole, without its ends."""
    value = _number(text)
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage between 0 and 100")
    return value


def each_of(kind: Callable[[str], float]) -> Callable[[str], tuple[float, ...]]:
    """The type of an option that is several of a kind with commas between them, each once, in their order."""
    return lambda text: tuple(dict.fromkeys(map(kind, text.split(","))))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def exit_code(work: Callable[[], str | int | None]) -> int:
    """Does the work and prints the text that it returns; an exit code that it returns is that of the command.

    What is wrong with the input is one line and the exit code of the error (lbtrain.errors), and so is a file
    or folder that cannot be used, such as --out; Ctrl-C is 130. A fault of the program is a traceback and
    FAULT.
    """
    try:
        result = work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None and error.errno not in FULL:  # of a connection, say: a fault to be seen
            traceback.print_exc()
            return FAULT
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        return SaveFailed.exit_code
    except KeyboardInterrupt:
        print("Stopped. What has finished is kept: the same command continues from there.", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return FAULT
    if isinstance(result, int):
        return result
    if result:
        print(escaped(result))
    return 0
