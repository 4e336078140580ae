"""Put a finished study or sweep into the repository: its numbers as data, its picture, its table on a page, its figures in the recipes.

    python -m tools.study.publish runs/demo --name digits_demo
    python -m tools.study.publish runs/sweep --name digits_sweep
    python -m tools.study.publish runs/methods --name digits_methods --page docs/methods.md

Writes results/NAME.json, docs/NAME.png, the text between the NAME markers of the page (README.md), and "Measured" in the contract of each
recipe of a study that says "not yet" there, or quotes this result already; a contract that quotes another keeps it. So no figure is typed
by hand. `python -m tools.catalogue` takes them into recipes/README.md.
"""

import argparse
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from lbtrain.tasks import headline_of
from tools.study.worker import load_recipe

ROOT = Path(__file__).parents[2]


def block(study: dict[str, Any], name: str, page: Path = ROOT / "README.md") -> str:
    """The page's text for a study or a sweep: table, verdict, picture, origin."""
    lines = "\n".join(f"- {line}" for line in study["verdicts"])
    seen = study.get("title", "curves of every run")
    picture = os.path.relpath(ROOT / "docs" / f"{name}.png", page.parent)
    parts = [study["table"], lines, f"![{seen}]({picture})", f"<sub>{study['provenance']}</sub>"]
    return "\n\n".join(part for part in parts if part)


def with_block(text: str, name: str, new: str) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced. Raises ValueError if the markers are not there."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the page needs the markers {start} and {end}, once each")
    return re.sub(rf"(?s){re.escape(start)}.*{re.escape(end)}", lambda _: f"{start}\n{new}\n{end}", text)


def measured(arm: dict[str, Any], label: str, study: dict[str, Any], name: str) -> str:
    """What a recipe's contract says of its arm of a study."""
    command = dict(re.findall(r"--(seeds|first-seed|launcher|ranks) (\S+)", study["provenance"].partition(";")[0]))
    first = int(command.get("first-seed", 0))
    seeds = f", seeds {first} to {first + arm['n'] - 1}" if first else ""
    ranks = "one process" if command["launcher"] == "python" else f"{command['ranks']} ranks under {command['launcher']}"
    return f"{label} {arm['mean']:.2f} ± {arm['std']:.2f} % (n={arm['n']}{seeds}, {ranks}; results/{name}.json)"


def with_measured(contract: str, new: str, name: str) -> str:
    """A recipe's text with `new` for what was measured, if nothing was yet or this very result."""
    return re.sub(rf"(?m)^Measured   (not yet|.*results/{re.escape(name)}\.json\))$", lambda _: f"Measured   {new}", contract)


def state_in_recipes(study: dict[str, Any], name: str) -> None:
    for arm in study.get("arms", []):
        path = ROOT / "recipes" / f"{arm['recipe']}.py"
        new = measured(arm, headline_of(load_recipe(path)).label, study, name)
        path.write_text(with_measured(path.read_text(), new, name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the --out folder of a finished study")
    parser.add_argument("--name", required=True, help="name of the result and of the page's markers")
    parser.add_argument("--page", type=Path, default=ROOT / "README.md", help="(default: README.md)")
    options = parser.parse_args()
    kind = "sweep" if (options.study / "sweep.json").exists() else "study"
    study = json.loads((options.study / f"{kind}.json").read_text())
    page = options.page.resolve()
    try:
        text = with_block(page.read_text(), options.name, block(study, options.name, page))
    except ValueError as error:
        sys.exit(f"error: {options.page}: {error}")
    (ROOT / "results").mkdir(exist_ok=True)
    shutil.copy(options.study / f"{kind}.json", ROOT / "results" / f"{options.name}.json")
    shutil.copy(options.study / f"{kind}.png", ROOT / "docs" / f"{options.name}.png")
    page.write_text(text)
    state_in_recipes(study, options.name)


if __name__ == "__main__":
    main()
