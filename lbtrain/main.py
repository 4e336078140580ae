"""The command line of a recipe file, which ends with `main(recipe)`.

python recipes/x.py key=value ...             train (under any launcher)
python recipes/x.py plan_for=8,16,256         print the plan for these world sizes, start nothing
python recipes/x.py deepspeed_config_for=256  print the complete DeepSpeed JSON for that many ranks
python recipes/x.py --help                    every key with its meaning, value and default
"""

import atexit
import contextlib
import gc
import inspect
import json
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from lbtrain.errors import DataError, HostError, RecipeError, UserError, naming_the_extra
from lbtrain.faults import watchdog
from lbtrain.launch.environment import own_arguments
from lbtrain.launch.variables import rank_among_others
from lbtrain.launch.workers import start_server
from lbtrain.output import drop_what_nobody_reads, say, while_output_is_read
from lbtrain.recipe import Recipe, keys, written
from lbtrain.recipe.files import error_in_recipe_file


def main(recipe: Recipe, argv: Sequence[str] | None = None) -> None:
    """Runs the file that calls it, as its command line says, and exits: 0 done, else the code of the error
    (lbtrain.errors).
    """
    caller = inspect.stack()[1].frame.f_globals
    file, doc = Path(caller.get("__file__", "recipe.py")), caller.get("__doc__") or ""
    words = own_arguments(sys.argv[1:] if argv is None else argv)
    # Importing torch and timm makes a million objects and no garbage; looking for some takes a quarter of the
    # start, and again of the end.
    gc.disable()
    atexit.register(gc.freeze)
    atexit.register(drop_what_nobody_reads)
    try:
        with while_output_is_read():
            if any(word in ("-h", "--help") for word in words):
                return print(help_text(file, doc, recipe))
            if given := _option(words, "plan_for"):
                with naming_the_extra():
                    return _print_plans(*given, recipe)
            if given := _option(words, "deepspeed_config_for"):
                return _print_deepspeed_config(*given, recipe)
        _launched(recipe, words, file.stem)
    except UserError as error:
        _exit_with(error)


def _launched(recipe: Recipe, words: Sequence[str], name: str) -> None:
    """One rank of a job, watched over from before its first slow import."""
    try:
        recipe = recipe.with_overrides(words)
    except RecipeError as error:
        _end_job(error, recipe, words, name)
    with watchdog.Watchdog(fault_timeout=recipe.fault_timeout, run_dir=recipe.run_dir_for(name)):
        if recipe.data.workers:
            start_server()  # it makes the slow imports too, meanwhile
        from lbtrain.launch.world import ending_exchanges

        with ending_exchanges():
            from lbtrain.run import run

            run(recipe, name)


def _end_job(error: RecipeError, recipe: Recipe, words: Sequence[str], name: str) -> NoReturn:
    """Ends this rank for a mistake that the others may not have made, and them with it: they would wait."""
    written = [word.partition("=")[2] for word in words if word.startswith("run_dir=")]
    run_dir = os.path.expanduser(written[-1]) if written else recipe.run_dir_for(name)
    watcher = watchdog.Watchdog(fault_timeout=recipe.fault_timeout, run_dir=run_dir)
    with contextlib.suppress(UserError), watcher:
        raise error
    # A launcher ends this rank, too, when another one with the same mistake has ended.
    watchdog.catch_signals(lambda *_: os._exit(error.exit_code))
    _exit_with(error, of_this_rank=not watcher.reported_by_another())


def _option(words: list[str], key: str) -> tuple[list[int], list[str]] | None:
    """The world sizes of `key=8,16` and the other words; None if the key is not there."""
    values = [word.partition("=")[2] for word in words if word.partition("=")[0] == key]
    if not values:
        return None
    sizes = [int(text) for text in values[-1].split(",") if re.fullmatch(r"[1-9]\d{0,5}", text)]
    if len(sizes) != len(values[-1].split(",")):
        raise RecipeError(f"{key}={values[-1]}: {key} takes world sizes, such as {key}=8,16,256.")
    return sizes, [word for word in words if word.partition("=")[0] != key]


def _print_plans(sizes: list[int], words: list[str], recipe: Recipe) -> None:
    from lbtrain.data import dataset_info, index_rows
    from lbtrain.engines.deepspeed_config import complete_config
    from lbtrain.plan.plan import Plan, make_plan
    from lbtrain.plan.report import print_plans
    from lbtrain.plan.statistics import model_statistics
    from lbtrain.tasks.weights import weights_rows

    recipe = recipe.with_overrides(words)
    plans: list[Plan] = []
    rejected: dict[int, str] = {}
    statistics = model_statistics(recipe, dataset_info(recipe.data))
    for size in sizes:
        try:
            plan = make_plan(recipe, size, engine=recipe.engine_under("deepspeed"), statistics=statistics)
            complete_config(plan, recipe.deepspeed.config)  # which reads the file, if there is one
            plans.append(plan)
        except RecipeError as error:
            rejected[size] = str(error)
    print_plans(plans, rejected, [*weights_rows(recipe.model), *index_rows(recipe.data)])
    if rejected:
        sys.exit(RecipeError.exit_code)


def _print_deepspeed_config(sizes: list[int], words: list[str], recipe: Recipe) -> None:
    from lbtrain.engines.deepspeed_config import complete_config
    from lbtrain.plan.plan import make_plan

    recipe = recipe.with_overrides(words)
    with naming_the_extra():
        plans = [make_plan(recipe, size, engine="deepspeed") for size in sizes]
    configs = [complete_config(plan, recipe.deepspeed.config) for plan in plans]
    print(json.dumps(configs[0] if len(configs) == 1 else configs, indent=1))


def help_text(file: Path, doc: str, recipe: Recipe) -> str:
    """The recipe's contract, then every key with its meaning, its range, its value in this recipe and, where
    the recipe has another, its default.
    """
    usage = "Usage:\n" + (__doc__ or "").partition("\n\n")[2].rstrip()
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    lines = [doc.strip(), "", usage.replace("recipes/x.py", str(shown)), "", "Keys:"]
    defaults, group = Recipe(), ""
    margin = textwrap.TextWrapper(
        100, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
    )
    for key, spec in keys():
        if key.rpartition(".")[0] != group:
            group = key.rpartition(".")[0]
            lines.append("")
        choices = ", ".join(str(choice) or "empty" for choice in spec.metadata.get("choices", ()))
        value, default = written(recipe, key), written(defaults, key)
        meaning = spec.metadata["help"] + (f" One of {choices}." if choices else "")
        meaning += f" Default: {default or 'empty'}." if value != default else ""
        lines.append(f"  {key}={value}")
        lines.append(margin.fill(meaning))
    return "\n".join(lines)


def _exit_with(error: UserError, *, of_this_rank: bool = False) -> NoReturn:
    """One message in all: rank 0 speaks, or the rank whose own error it may be: a wrong command line, or bad
    data, which no other knows of. A process that cannot find a rank 0 speaks for itself.
    """
    rank = os.environ.get("RANK", "0")
    prefix = f"error on rank {rank}: " if of_this_rank and rank not in ("", "0") else "error: "
    if not rank_among_others(os.environ) or of_this_rank or isinstance(error, DataError | HostError):
        say(f"{prefix}{error}" if error.exit_code != 75 else str(error), error=True)
    sys.exit(error.exit_code)


def _on_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A mistake in a recipe file ends as it does on the command line."""
    if isinstance(error, Exception) and (folder := _folder_of_recipe(trace)):
        error = error_in_recipe_file(error, folder)
    # torch's hook, around this one once there is a process group, prints what it took from sys.stderr when
    # this one returns; these two end the process.
    with contextlib.redirect_stderr(sys.__stderr__):
        if isinstance(error, RecipeError):
            _end_job(error, Recipe(), own_arguments(sys.argv[1:]), Path(sys.argv[0]).stem)
        if isinstance(error, UserError):
            _exit_with(error)
    sys.__excepthook__(kind, error, trace)


def _folder_of_recipe(trace: TracebackType | None) -> Path | None:
    """Of the recipe file that raised an error before it reached its `main(recipe)`; None for other errors."""
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    recipes = [
        frame for frame in frames if frame.f_globals.get("main") is main and frame.f_globals is not globals()
    ]
    started = any(frame.f_code is main.__code__ for frame in frames)
    return Path(recipes[0].f_code.co_filename).parent if recipes and not started else None


sys.excepthook = _on_uncaught  # from here on, which is the first line of a recipe file
