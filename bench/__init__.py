"""Measurements of what the project says about speed, one command each."""

import argparse
from collections.abc import Iterable


def parser(command: str, doc: str | None, *, cases: Iterable[str] = ()) -> argparse.ArgumentParser:
    """The options of a bench, described by its docstring: `--cases` where it has several."""
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(command, description=doc, formatter_class=as_written)
    if every := list(cases):
        text = "The cases (default: all)."
        options.add_argument("--cases", nargs="+", choices=every, default=every, help=text)
    return options
