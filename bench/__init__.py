"""Measurements of what the project says about speed, one command each."""

import argparse
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def parser(
    command: str, doc: str | None, *, cases: Iterable[str] = (), rounds: int = 0, timm: bool = False
) -> argparse.ArgumentParser:
    """The options of a bench, described by its docstring: `--cases` where it has several, `--rounds` where
    their number can be chosen, and `--timm` where timm's train.py takes part.
    """
    as_written = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(command, description=doc, formatter_class=as_written)
    if every := list(cases):
        text = "The cases (default: all)."
        options.add_argument("--cases", nargs="+", choices=every, default=every, help=text)
    if rounds:
        text = f"The number of rounds (default {rounds})."
        options.add_argument("--rounds", type=int, default=rounds, help=text)
    if timm:
        text = "A clone of timm's repository, whose train.py takes part (default: $TIMM)."
        options.add_argument("--timm", type=Path, metavar="DIR", default=os.environ.get("TIMM"), help=text)
    return options


def processor_ms(call: Callable[[], object]) -> float:
    """The processor time of a call: what other processes take of the machine's time does not count."""
    started = time.process_time()
    call()
    return 1e3 * (time.process_time() - started)
