"""What every command of the tools has: its options with its docstring as their description, and one way to
fail.
"""

import argparse
import sys
from collections.abc import Callable

from lbtrain.errors import UserError


def parser(command: str, doc: str | None, **more: str) -> argparse.ArgumentParser:
    """Options of `python -m tools.COMMAND`, described by a docstring that keeps its lines."""
    return argparse.ArgumentParser(
        f"python -m tools.{command}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,  # type: ignore[arg-type]
    )


def exit_code(work: Callable[[], str | int | None]) -> int:
    """Does the work and prints the text that it returns; an exit code that it returns is that of the command.

    What is wrong with the input is one line and the exit code of the error (lbtrain.errors); Ctrl-C is 130.
    """
    try:
        result = work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped. What has finished is kept: the same command continues from there.", file=sys.stderr)
        return 130
    if isinstance(result, int):
        return result
    if result:
        print(result)
    return 0
