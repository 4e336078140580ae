"""Runs one module of the tools for a launcher, which starts a file by its path and from any folder.

    LAUNCHER .../tools/kit/start.py study.worker JOBS.json

In a checkout the module is `tools.study.worker`, installed it is `lbtrain.tools.study.worker`; this file sees
by the folders around it which of the two it belongs to, so that neither the working directory nor PYTHONPATH
matters.
"""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path


def launched(module: str) -> list[str]:
    """The words with which a launcher starts `module`, such as "study.worker"."""
    return [str(Path(__file__).resolve()), module]


def _packages() -> Iterator[Path]:
    """The folders of the packages that this file lies in, the innermost last but one first."""
    folder = Path(__file__).resolve().parents[1]
    while (folder / "__init__.py").is_file():
        yield folder
        folder = folder.parent


if __name__ == "__main__":
    packages = list(_packages())
    sys.path[0] = str(packages[-1].parent)  # not this folder, whose files would hide other modules
    # Launchers put their own option before the words.
    options = ("--local_rank", "--local-rank")
    module, *words = [word for word in sys.argv[1:] if not word.startswith(options)]
    sys.argv[1:] = words
    name = ".".join([*(folder.name for folder in reversed(packages)), module])
    runpy.run_module(name, run_name="__main__", alter_sys=True)
