"""Put a finished study, sweep, search, or comparison of epochs to a score, of sharpness, of steps to a goal,
or of runs into the repository: its numbers, its picture, its table on a page.

    python -m tools.study.publish runs/demo --name digits_demo
    python -m tools.study.publish runs/sweep --name digits_sweep
    python -m tools.study.publish runs/tune --name cifar10_tuning
    python -m tools.study.publish runs/epochs --name cifar10_epochs
    python -m tools.study.publish runs/methods --name digits_methods --page docs/methods.md
    python -m tools.study.publish runs/sharpness --name cifar10_sharpness --page docs/landscape.md
    python -m tools.study.publish runs/steps --name steps_to_loss --page docs/landscape.md
    python -m tools.study.publish runs/equality --name cifar10_equality --page docs/reproducibility.md

Writes results/NAME.json, docs/NAME.png (of a sweep docs/NAME_errors.png as well), the text between the NAME
markers of the page, the line `Measured` of every recipe that was an arm as it stands, and recipes/README.md:
no figure is typed by hand. A study whose arms were changed by key=value words measured no recipe (but for
words that a recipe says itself, or that the command in its contract has, such as where its weights lie), nor
do the trials of a search, but for a best one on other seeds that is a recipe: their numbers go to the page
only. A recipe that another result speaks for keeps its line, unless that is the arm of a sweep (which is the
recipe at its own batch size) and this is a study.
"""

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from lbtrain.errors import RecipeError
from lbtrain.recipe.files import RECIPES, contract_field, load_recipe

from .. import catalogue
from ..kit import command
from ..kit.publish import ACCURACY, add_options, picture_beside, publish

_SWEEP = "as an arm of the sweep"
_MORE = {"errors": "training error by epoch at each batch size, and at the reference batch"}
"""Further pictures that a result may have, and what is to be seen on them."""


def block(study: dict[str, Any], name: str, page: Path = ACCURACY, *more: str) -> str:
    """The page's text for a study or a sweep: table, outcomes, pictures, origin."""
    lines = "\n".join(f"- {line}" for line in study["outcomes"])
    seen = study.get("title", "curves of every run")
    parts = [
        study["table"],
        lines,
        f"![{seen}]({picture_beside(page, name)})",
        *(f"![{_MORE[each]}]({picture_beside(page, f'{name}_{each}')})" for each in more),
        f"<sub>{study['provenance']}</sub>",
    ]
    return "\n\n".join(part for part in parts if part)


def measured(study: dict[str, Any], name: str) -> dict[str, str]:
    """What the contracts of recipes say of their measurement, by recipe; nothing where overrides made an arm
    another experiment than its recipe. `study`: study.json, sweep.json or tune.json.
    """
    overrides = study["overrides"]
    if "rows" in study:
        lines = {row["recipe"]: _format_result(row, _SWEEP, name) for row in study["rows"] if row["recipe"]}
    else:
        arms = (arm for arm in study.get("arms", ()) if arm["recipe"])
        lines = {arm["recipe"]: _format_result(arm, study["launch"], name) for arm in arms}
    return {recipe: line for recipe, line in lines.items() if _is_recipe(recipe, overrides)}


def _is_recipe(name: str, overrides: list[str]) -> bool:
    """Whether these words leave the recipe as it is: they say what it says, or its own command (`Run`) has
    them.
    """
    return not overrides or any(_says(path, overrides) for path in RECIPES.rglob(f"{name}.py"))


def _says(path: Path, overrides: list[str]) -> bool:
    recipe, typed = load_recipe(path), contract_field(path.read_text(encoding="utf-8"), "Run").split()
    return all(word in typed or recipe.with_overrides([word]) == recipe for word in overrides)


def _format_result(row: dict[str, Any], launch: str, name: str) -> str:
    """The score of an arm, or that it has none."""
    runs = row["n"] + row["diverged"]
    lost = f"{row['diverged']} of {runs} runs diverged, " if row["diverged"] and row["n"] else ""
    score = (
        f"{row['label']} {row['mean']:.2f}" + (f" ± {row['std']:.2f} %" if row["n"] > 1 else " %")
        if row["n"]
        else "diverged"
    )
    of = f"median of the last {row['evaluations']} evaluations, " if row["evaluations"] > 1 else ""
    return f"{score} (n={row['n'] or runs}, {lost}{of}{launch}; results/{name}.json)"


def with_measured(contract: str, line: str) -> str:
    """The recipe's text with `line` behind `Measured`, where nothing stands, or the same result, or a sweep's
    and this is a study's.
    """
    old = contract_field(contract, "Measured")
    same = re.findall(r"results/\S+\.json", old) == re.findall(r"results/\S+\.json", line)
    if old != "not yet" and not same and (_SWEEP not in old or _SWEEP in line):
        return contract
    wrapped = textwrap.fill(line, 99).replace("\n", "\n" + 11 * " ")
    return re.sub(r"(?m)^(Measured +)\S.*(\n {4,}\S.*)*$", lambda found: found[1] + wrapped, contract)


def put(folder: Path, name: str, page: Path) -> None:
    """Publishes what `folder` holds. Raises RecipeError, before anything is written, for a folder without a
    result, and for one that older code wrote.
    """
    known = ("sweep", "tune", "epochs", "sharpness", "steps", "runs", "study")
    kind = next((kind for kind in known if (folder / f"{kind}.json").exists()), None)
    if not kind:
        raise RecipeError(f"{folder} holds no result: name the --out folder of a command that finished")
    study = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
    try:
        lines = measured(study, name)
        more = [each for each in _MORE if (folder / f"{kind}_{each}.png").exists()]
        publish(folder, kind, name, page, block(study, name, page, *more), *more)
    except KeyError as error:
        raise RecipeError(
            f"{kind}.json has no {error}, as older ones: run the command again that made it, which trains "
            "nothing anew"
        ) from None
    for recipe, line in lines.items():
        for path in RECIPES.rglob(f"{recipe}.py"):
            path.write_text(with_measured(path.read_text(encoding="utf-8"), line), encoding="utf-8")
    catalogue.write()


def main() -> int:
    parser = command.parser("study.publish", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="The --out folder of what has finished.")
    add_options(parser)
    options = parser.parse_args()
    return command.exit_code(lambda: put(options.folder, options.name, options.page))


if __name__ == "__main__":
    sys.exit(main())
