"""Train recipes by name, use trained models, and measure how training scales.

  lbtrain recipes [WORD]                  list recipes (those that WORD occurs in) with batch size and results
  lbtrain recipes path NAME               print the file of a recipe, for a launcher
  lbtrain recipes copy NAME FOLDER        copy a recipe and its parents, to change them
  lbtrain train NAME_OR_FILE key=value    train on this machine
  lbtrain plan NAME_OR_FILE --gpus 8,64   print batch split, learning rates and memory for each world size
  lbtrain diff NAME_OR_FILE               print how it differs from its parent and the defaults

  lbtrain eval RUN_OR_CHECKPOINT          evaluate a trained model, overall and per class
  lbtrain predict RUN IMAGE...            predict classes, or detect objects, on images
  lbtrain export RUN                      write weights, class names and a model card for timm and others

  lbtrain data FOLDER                     print what a data set holds; --check decodes every image
  lbtrain doctor                          check the hosts of a hostfile before a launch
  lbtrain scaling-report                  measure, predict and explain scaling over GPUs
  lbtrain study                           compare recipes over seeds
  lbtrain landscape                       critical batch size, sharpness, Hessian spectrum
  lbtrain verify                          check an optimizer under ZeRO, a model over batch splits, two runs

NAME is a recipe of lbtrain, such as imagenet/resnet50_8k. A launcher takes its file:

  deepspeed --hostfile HOSTFILE $(lbtrain recipes path imagenet/resnet50_8k) data.root=/data/imagenet

Each command explains itself with --help. Exit codes: 0 done, 2 invalid arguments or settings;
those of a training run are in lbtrain/errors.py.
"""

import argparse
import difflib
import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import lbtrain
from lbtrain.errors import RecipeError, UserError, naming_the_extra
from lbtrain.launch.environment import own_arguments
from lbtrain.output import while_output_is_read
from lbtrain.recipe import Recipe, as_text, differences
from lbtrain.recipe.contract import Contract, parent_of
from lbtrain.recipe.files import (
    contract_field,
    docstring_of,
    does_nothing,
    find_recipe,
    load_recipe,
    parents_of,
    shipped,
)
from lbtrain.runs.files import saving

OWN = ("recipes", "train", "plan", "diff")
TRAINED = ("eval", "predict", "export")
TOOLS = ("data", "doctor", "scaling-report", "study", "landscape", "verify")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code. `train` and `plan` do not return: the recipe takes this process over."""
    words = own_arguments(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in (*TOOLS, *TRAINED):
            with while_output_is_read():
                return _delegated(words[0], words[1:])
        if words and words[0] not in OWN and not words[0].startswith("-"):
            near = difflib.get_close_matches(words[0], (*OWN, *TRAINED, *TOOLS), 1)
            meant = f": did you mean {near[0]}?" if near else ""
            raise RecipeError(f"lbtrain has no command {words[0]!r}{meant} (`lbtrain --help` lists all)")
        # argparse takes no KEY=VALUE behind --gpus for a positional one
        options, more = _parser().parse_known_args(words)
        options.more = more
        if options.more and options.run is not _plan:
            raise RecipeError(f"{' '.join(options.more)}: no such option (`lbtrain --help` explains all)")
        with while_output_is_read():
            options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "lbtrain", usage="lbtrain COMMAND ...", description=__doc__, formatter_class=as_written
    )
    parser.add_argument("--version", action="version", version=f"lbtrain {lbtrain.__version__}")
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", help="one of those above", prog="lbtrain"
    )
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("recipe", metavar="NAME_OR_FILE", help="a recipe of lbtrain, or a file of your own")

    recipes = commands.add_parser("recipes", description="List recipes; find or copy one.")
    words = "a word to look for, or `path NAME`, or `copy NAME FOLDER`"
    recipes.add_argument("words", nargs="*", metavar="WORD", help=words)
    recipes.set_defaults(run=_recipes)

    text = "Train on this machine, as `python FILE` does. `lbtrain train NAME --help` lists the keys."
    train = commands.add_parser("train", parents=[named], description=text)
    overrides = train.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="KEY=VALUE", help="overrides of the recipe"
    )
    overrides.required = False  # argparse asks for them too where the recipe is missing
    train.set_defaults(run=_train)

    text = (
        "Print batch split, learning rates, steps and memory for each world size, without a GPU, and without "
        "data unless the data set is one of your own."
    )
    plan = commands.add_parser("plan", parents=[named], description=text)
    plan.add_argument("words", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the recipe")
    plan.add_argument("--gpus", default="8", help="world sizes, separated by commas (default: 8)")
    plan.set_defaults(run=_plan)

    text = "Print how a recipe differs from its parent and the defaults, and what its values are from."
    commands.add_parser("diff", parents=[named], description=text).set_defaults(run=_diff)
    return parser


def _delegated(name: str, words: list[str]) -> int:
    """To the module of a tool, or of what is done with a trained model."""
    module = f"trained.{name}" if name in TRAINED else f"tools.{name.replace('-', '_')}.__main__"
    with naming_the_extra():
        return int(importlib.import_module(f"lbtrain.{module}").main(words))


def _recipes(options: argparse.Namespace) -> None:
    match options.words:
        case ["path", name]:
            print(find_recipe(name).resolve())
        case ["copy", name, folder]:
            _copy(find_recipe(name), Path(folder))
        case [] | [_] if options.words not in (["path"], ["copy"]):
            _list("".join(options.words))
        case _:
            raise RecipeError("write `recipes [WORD]`, `recipes path NAME` or `recipes copy NAME FOLDER`")


def _list(word: str) -> None:
    found = [contract for path in shipped().values() if (contract := Contract.read(path)).matches(word)]
    if not found:
        raise RecipeError(f"no recipe has {word!r} in its name, title or source: `lbtrain recipes` lists all")
    rows = [(row.name, row.batch, row.measured, row.published, row.source) for row in found]
    _print_table([("recipe", "batch", "measured %", "published %", "source"), *rows])
    print("\nTop-1 error, or mask or box AP for detection; a batch with + grows during the run.")


def _print_table(rows: Iterable[tuple[str, ...]]) -> None:
    """In lines of at most 100 characters: the last column is shortened where it has to be."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    room = 100 - sum(width + 2 for width in widths[:-1])
    for *cells, last in zip(*columns, strict=True):
        before = [cell.ljust(width) for cell, width in zip(cells, widths[:-1], strict=True)]
        print("  ".join([*before, textwrap.shorten(last, room, placeholder=" ...")]).rstrip())


def _copy(path: Path, folder: Path) -> None:
    """A recipe and the parents that it imports. Raises RecipeError rather than replace a file."""
    files = [path, *parents_of(path)]
    if there := [file.name for file in files if (folder / file.name).exists()]:
        raise RecipeError(f"{folder} has {', '.join(there)} already: name another folder, or move these away")
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            print(shutil.copy(file, folder))


def _train(options: argparse.Namespace) -> None:
    _become(find_recipe(options.recipe), options.words)


def _plan(options: argparse.Namespace) -> None:
    _become(find_recipe(options.recipe), [*options.words, *options.more, f"plan_for={options.gpus}"])


def _become(path: Path, words: list[str]) -> None:
    """Exactly `python FILE ...`, which launchers and loader processes know how to deal with. Raises
    RecipeError for a file that would do nothing.
    """
    if does_nothing(path):
        raise RecipeError(
            f"{path} does nothing when it is run, since it never calls main: end it with\n"
            'if __name__ == "__main__":\n    main(recipe)'
        )
    os.execv(sys.executable, [sys.executable, str(path), *words])


def _diff(options: argparse.Namespace) -> None:
    path = find_recipe(options.recipe)
    recipe, parent = load_recipe(path), parent_of(path)
    if parent:
        _print_difference(f"its parent {parent.stem}", load_recipe(parent), recipe)
        print()
    _print_difference("the defaults", Recipe(), recipe)
    _print_sources(path)


def _print_sources(path: Path | None) -> None:
    """What a recipe and its parents say of the papers and code that their values are from."""
    print("\nWhere the values are from:")
    while path:
        doc = docstring_of(path) or "says nothing"
        differs = contract_field(doc, "Differs")
        text = f"{path.stem}: {doc.partition(chr(10) * 2)[0]}" + f" Differs: {differs}." * bool(differs)
        print(textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="    "))
        path = parent_of(path)


def _print_difference(other: str, before: Recipe, after: Recipe) -> None:
    found = differences(before, after)
    changed = {name: f"{as_text(old)} -> {as_text(new)}" for name, old, new in found} or {"nothing": ""}
    width = max(map(len, changed))
    print(f"What differs from {other}:")
    for name, change in changed.items():
        print(f"  {name:<{width}}  {change}".rstrip())
