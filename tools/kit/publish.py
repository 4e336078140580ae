"""Puts results into the repository: their numbers as data, their picture, and their text on a page, so that
no figure is typed by hand.
"""

import argparse
import os
import re
import shutil
from pathlib import Path

from lbtrain.errors import RecipeError

ROOT = Path(__file__).parents[2]
ACCURACY = ROOT / "docs" / "accuracy.md"


def with_block(text: str, name: str, new: str) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced. Raises RecipeError if
    the markers are not there, or in the other order.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(end) < text.index(start):
        raise RecipeError(f"the page needs the markers {start} and {end}, once each, in this order")
    return re.sub(rf"(?s){re.escape(start)}.*{re.escape(end)}", lambda _: f"{start}\n{new}\n{end}", text)


def picture_beside(page: Path, name: str) -> str:
    """The address of docs/NAME.png as `page` writes it."""
    return os.path.relpath(ROOT / "docs" / f"{name}.png", page.resolve().parent)


def publish(folder: Path, kind: str, name: str, page: Path, block: str, *more: str) -> None:
    """Writes the block between the NAME markers of `page`, and copies KIND.json of `folder` to
    results/NAME.json and KIND.png to docs/NAME.png, and KIND_MORE.png to docs/NAME_MORE.png. Raises
    RecipeError, before anything is written, if the page has no markers.
    """
    text = with_block(page.read_text(encoding="utf-8"), name, block)
    shutil.copy(folder / f"{kind}.json", ROOT / "results" / f"{name}.json")
    for end in ("", *(f"_{each}" for each in more)):
        shutil.copy(folder / f"{kind}{end}.png", ROOT / "docs" / f"{name}{end}.png")
    page.write_text(text, encoding="utf-8")


def add_options(options: argparse.ArgumentParser, *, page: Path = ACCURACY) -> None:
    """The options of every publisher; `page` is the default."""
    options.add_argument("--name", required=True, help="The name of the result and of the page's markers.")
    shown = f"The page that shows table and picture (default {page.relative_to(ROOT)})."
    options.add_argument("--page", type=Path, default=page, help=shown)
