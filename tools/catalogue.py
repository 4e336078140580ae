"""The tables of contents of the recipes, one a folder, from the contracts of the recipes.

python -m tools.catalogue            writes them
python -m tools.catalogue --check    says whether one is out of date (exit code 1), writes nothing
"""

import argparse
import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from .recipe_file import contract_field, load_recipe

FOLDER = Path(__file__).parents[1] / "recipes"

FOLDERS = sorted(path for path in FOLDER.iterdir() if any(path.glob("*.py")))
TITLES = {
    "cifar10": "CIFAR-10",
    "coco": "COCO, and drawn shapes that need no data set",
    "digits": "Digits, for a laptop: no data set to fetch",
    "fashion_mnist": "Fashion-MNIST, for a laptop",
    "imagenet": "ImageNet",
}

HEAD = """# Recipes

One file is one experiment. `python recipes/FOLDER/X.py --help` lists every key, `plan_for=8,64,256` prints what a run would be on so many ranks,
`key=value` changes anything. Published numbers are the papers'; measured ones are ours, stand in results/, and come into the contracts by
`python -m tools.study.publish`. A recipe with a published number for its setting carries it as data (`expect`), and `summary.json` of a
finished run says met, not met, or not comparable where the command line changed the experiment. Tolerances: two published standard
deviations, 0.3 points at least; half a point where one run is published.

Each folder has a table of its own, generated from the contracts of its recipes by `python -m tools.catalogue`.
"""
GENERATED = "Generated from the contracts of the recipes by `python -m tools.catalogue`.\n"


@dataclass(frozen=True)
class Entry:
    """A recipe's row: its contract, and its batch size as it is in the recipe."""

    name: str
    title: str
    paper: str
    batch: str
    published: str
    measured: str
    command: str

    @classmethod
    def read(cls, path: Path) -> "Entry":
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        title, _, rest = doc.partition("\n\n")
        recipe = load_recipe(path)
        grows = recipe.schedule.batch_growth or recipe.absa.max_batch_size
        return cls(
            name=path.stem,
            title=_without_paper(title),
            paper=", ".join(dict.fromkeys(re.findall(r"[A-Z][\w']+ (?:et al\.|& [A-Z]\w+) \d{4}", doc)))
            or "-",
            batch=f"{recipe.batch_size:,}" + (", grows" if grows else ""),
            published=contract_field(rest, "Published") or "-",
            measured=contract_field(rest, "Measured") or "-",
            command=contract_field(rest, "Run") or "-",
        )


def _without_paper(title: str) -> str:
    return re.sub(r" \([^()]*\d{4}[^()]*\)", "", title).rstrip(".:")


def page(folder: Path) -> str:
    """The README.md of one folder: recipes that were measured come first."""
    entries = [Entry.read(path) for path in sorted(folder.glob("*.py"), key=_by_name)]
    entries.sort(key=lambda entry: not entry.measured[:1].isdigit())
    head = f"# {TITLES.get(folder.name, folder.name)}\n\n{GENERATED}"
    table = [
        "| recipe | batch | measured | published | paper |",
        "|---|---:|---|---|---|",
        *map(_row, entries),
    ]
    return f"{head}\n" + "\n".join(table) + "\n"


def contents() -> str:
    """recipes/README.md: what the folders hold."""
    table = ["| folder | recipes | data set |", "|---|---:|---|"]
    for folder in FOLDERS:
        count = len(list(folder.glob("*.py")))
        table.append(f"| [{folder.name}]({folder.name}/README.md) | {count} | {TITLES[folder.name]} |")
    return HEAD + "\n" + "\n".join(table) + "\n"


def _by_name(path: Path) -> list[str | int]:
    """8k before 16k, and resnet50 before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]


def _row(entry: Entry) -> str:
    cells = [f"[{entry.name}]({entry.name}.py)", entry.batch, entry.measured, entry.published, entry.paper]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write(check: bool = False) -> list[Path]:
    """Writes every table that is out of date, unless told only to `check`; returns their paths."""
    pages = {FOLDER / "README.md": contents()} | {folder / "README.md": page(folder) for folder in FOLDERS}
    stale = [path for path, new in pages.items() if not path.exists() or path.read_text() != new]
    for path in [] if check else stale:
        path.write_text(pages[path])
    return stale


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tools.catalogue", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="only report whether a table is out of date; writes nothing"
    )
    check = parser.parse_args().check
    stale = write(check)
    for path in stale:
        print(
            f"{path.relative_to(FOLDER.parent)} "
            f"{'is out of date: python -m tools.catalogue' if check else 'written'}"
        )
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
