"""recipes/README.md: the table of contents of the recipes, from their contracts.

python -m tools.catalogue            writes it
python -m tools.catalogue --check    says whether it is stale (exit code 1), writes nothing
"""

import argparse
import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.recipe_file import load_recipe

FOLDER = Path(__file__).parents[1] / "recipes"

GROUPS = {
    "resnet": "ResNet on ImageNet",
    "alexnet": "AlexNet on ImageNet",
    "mask_rcnn": "Mask R-CNN",
    "cifar10": "CIFAR-10",
    "fashion": "Fashion-MNIST, for a laptop",
    "digits": "Digits, for a laptop (no data set to fetch)",
}
"""Recipes by the first word of their names; a name that begins with none of these comes last, under Others."""

HEAD = """# Recipes

One file is one experiment. `python recipes/X.py --help` lists every key, `plan_for=8,64,256` prints what a run would be on so many ranks,
`key=value` changes anything. Published numbers are the papers'; measured ones are ours, stand in results/, and come into the contracts by
`python -m tools.study.publish`. A recipe with a published number for its setting carries it as data (`expect`), and `summary.json` of a
finished run says met, not met, or not comparable where the command line changed the experiment. Tolerances: two published standard
deviations, 0.3 points at least; half a point where one run is published.

This page is generated from the recipes' contracts: `python -m tools.catalogue`.
"""


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
            paper=", ".join(dict.fromkeys(re.findall(r"[A-Z][\w']+ (?:et al\.|& [A-Z]\w+) \d{4}", doc))) or "-",
            batch=f"{recipe.batch_size:,}" + (", grows" if grows else ""),
            published=_field(rest, "Published"),
            measured=_field(rest, "Measured"),
            command=_field(rest, "Run"),
        )


def _field(contract: str, word: str) -> str:
    found = re.search(rf"^{word} +(\S.*)$", contract, re.M)
    return found[1] if found else "-"


def _without_paper(title: str) -> str:
    return re.sub(r" \([^()]*\d{4}[^()]*\)", "", title).rstrip(".:")


def page(folder: Path = FOLDER) -> str:
    """The whole of recipes/README.md."""
    entries = [Entry.read(path) for path in sorted(folder.glob("*.py"), key=_by_name)]
    parts = [HEAD]
    for heading, rows in _grouped(entries).items():
        table = ["| recipe | paper | batch | published | measured | command |", "|---|---|---:|---|---|---|"]
        parts.append(f"## {heading}\n\n" + "\n".join([*table, *[_row(entry) for entry in rows]]) + "\n")
    return "\n".join(parts)


def _by_name(path: Path) -> list[str | int]:
    """8k before 16k, and resnet50 before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]


def _row(entry: Entry) -> str:
    cells = [f"[{entry.name}]({entry.name}.py): {entry.title}", entry.paper, entry.batch, entry.published, entry.measured]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + f" | `{entry.command}` |"


def _grouped(entries: list[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {heading: [] for heading in (*GROUPS.values(), "Others")}
    for entry in entries:
        groups[next((heading for word, heading in GROUPS.items() if entry.name.startswith(word)), "Others")].append(entry)
    return {heading: rows for heading, rows in groups.items() if rows}


def main() -> int:
    parser = argparse.ArgumentParser("python -m tools.catalogue", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether recipes/README.md is stale")
    path, new = FOLDER / "README.md", page()
    if parser.parse_args().check:
        stale = not path.exists() or path.read_text() != new
        print(f"{path.name} is stale: python -m tools.catalogue" if stale else f"{path.name} is up to date")
        return int(stale)
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
