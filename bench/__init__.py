"""Measurements of what the project says about speed, one command each."""

import argparse
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any


def parser(
    command: str,
    doc: str | None,
    *,
    cases: Iterable[str] = (),
    rounds: int = 0,
    timm: bool = False,
    hide_gpus: bool = True,
) -> argparse.ArgumentParser:
    """The options of a bench, described by its docstring: `--cases` where it has several, `--rounds` where
    their number can be chosen, and `--timm` where timm's train.py takes part.

    With `hide_gpus`, neither this process, which must not have asked for GPUs yet, nor those that it starts
    see any: the peers compute on the CPU, and lbtrain's loop would take a GPU that it sees.
    """
    if hide_gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
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
        default = os.environ.get("TIMM") or None  # an empty variable is none, and not the current folder
        options.add_argument("--timm", type=_timm_checkout, metavar="DIR", default=default, help=text)
    return options


def _timm_checkout(text: str) -> Path:
    """Checked before anything is measured: timm's loop comes after ours, which can train for 20 minutes."""
    if not text or not (Path(text) / "train.py").is_file():
        raise argparse.ArgumentTypeError(f"no train.py in {text!r}: name a clone of timm's repository")
    return Path(text)


def typed(options: argparse.ArgumentParser, chosen: argparse.Namespace, **shown: str | None) -> str:
    """The command with those of its options that differ from their defaults; `shown` has what stands for the
    value of an option (a name for a path of this machine), or None to leave the option out.
    """
    values: Mapping[str, Any] = vars(chosen) | shown
    words = [options.prog]
    for key, value in values.items():
        if value is not None and value != options.get_default(key):
            words.append(f"--{key.replace('_', '-')} {shlex.quote(str(value))}")
    return " ".join(words)


def output_of(command: list[str], *, timeout: float, **options: Any) -> str:
    """What a command writes to its standard output; `options` are subprocess.run's.

    Raises RuntimeError with the end of what it wrote to its standard error where it fails, or takes longer
    than `timeout` seconds.
    """
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout, **options)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        written = error.stderr or b""  # bytes after a timeout, whatever `text` says
        text = written if isinstance(written, str) else written.decode(errors="replace")
        raise RuntimeError(f"{error}\n{text[-6000:]}") from None
    return done.stdout


def processor_ms(call: Callable[[], object]) -> float:
    """The processor time of a call: what other processes take of the machine's time does not count."""
    started = time.process_time()
    call()
    return 1e3 * (time.process_time() - started)
