"""Put a finished study or sweep into the repository: its numbers as data, its picture, its table in the README.

    python -m tools.study.publish runs/demo --name digits_demo
    python -m tools.study.publish runs/sweep --name digits_sweep

Writes results/NAME.json, docs/NAME.png and the text between the NAME markers of README.md, so that no figure is typed by hand.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def block(study: dict[str, Any], name: str) -> str:
    """The README's text for a study or a sweep: table, verdict, picture, origin."""
    lines = "\n".join(f"- {line}" for line in study["verdicts"])
    seen = study.get("title", "curves of every run")
    parts = [study["table"], lines, f"![{seen}](docs/{name}.png)", f"<sub>{study['provenance']}</sub>"]
    return "\n\n".join(part for part in parts if part)


def with_block(text: str, name: str, new: str) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced. Raises ValueError if the markers are not there."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"README.md needs the markers {start} and {end}, once each")
    return re.sub(rf"(?s){re.escape(start)}.*{re.escape(end)}", lambda _: f"{start}\n{new}\n{end}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the --out folder of a finished study")
    parser.add_argument("--name", required=True, help="name of the result and of the README's markers")
    options = parser.parse_args()
    kind = "sweep" if (options.study / "sweep.json").exists() else "study"
    study = json.loads((options.study / f"{kind}.json").read_text())
    readme = ROOT / "README.md"
    try:
        text = with_block(readme.read_text(), options.name, block(study, options.name))
    except ValueError as error:
        sys.exit(f"error: {error}")
    (ROOT / "results").mkdir(exist_ok=True)
    shutil.copy(options.study / f"{kind}.json", ROOT / "results" / f"{options.name}.json")
    shutil.copy(options.study / f"{kind}.png", ROOT / "docs" / f"{options.name}.png")
    readme.write_text(text)


if __name__ == "__main__":
    main()
