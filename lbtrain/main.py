"""Command line -> Recipe -> Plan -> Engine -> train. A recipe file ends with `main(recipe)`.

python recipes/x.py key=value ...             train (under any launcher)
python recipes/x.py plan_for=8,16,256         print the plan for these world sizes, start nothing
python recipes/x.py deepspeed_config_for=256  print the complete DeepSpeed JSON for that many ranks
python recipes/x.py --help                    every key with its meaning and default
"""

import atexit
import contextlib
import gc
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from lbtrain.errors import DataError, HostError, RecipeError, UserError, naming_the_extra, naming_the_shortage
from lbtrain.faults import watchdog
from lbtrain.launch.environment import check_environment, own_arguments
from lbtrain.launch.workers import start_server
from lbtrain.recipe import Recipe, keys, written
from lbtrain.recipe.expectation import format_outcome

if TYPE_CHECKING:  # a plan or a help text must not wait for the engines' imports
    import torch

    from lbtrain.engines import Engine
    from lbtrain.plan.plan import Plan
    from lbtrain.tasks import Task

    Wrappers = Callable[[Task, Engine], tuple[Task, Engine]]


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
    try:
        if any(word in ("-h", "--help") for word in words):
            print(help_text(file, doc, recipe))
        elif given := _option(words, "plan_for"):
            with naming_the_extra():
                _print_plans(*given, recipe)
        elif given := _option(words, "deepspeed_config_for"):
            _print_deepspeed_config(*given, recipe)
        else:
            _launched(recipe, words, file.stem)
    except UserError as error:
        _exit_with(error)


def _launched(recipe: Recipe, words: Sequence[str], name: str) -> None:
    """One rank of a job, watched over from before its first slow import."""
    try:
        recipe = recipe.with_overrides(words)
    except RecipeError as error:
        _end_job(error, recipe, words, name)
    with watchdog.Watchdog(fault_timeout=recipe.fault_timeout, run_dir=_run_dir(recipe, name)):
        if recipe.data.workers:
            start_server()  # it makes the slow imports too, meanwhile
        from lbtrain.launch.world import leave_process_group, let_exchanges_end

        try:
            with naming_the_extra(), naming_the_shortage():
                run(recipe, name)
        except UserError:
            let_exchanges_end()
            raise
        leave_process_group()


def _end_job(error: RecipeError, recipe: Recipe, words: Sequence[str], name: str) -> NoReturn:
    """Ends this rank for a mistake that the others may not have made, and them with it: they would wait."""
    written = [word.partition("=")[2] for word in words if word.startswith("run_dir=")]
    run_dir = os.path.expanduser(written[-1]) if written else _run_dir(recipe, name)
    with (
        contextlib.suppress(UserError),
        watchdog.Watchdog(fault_timeout=recipe.fault_timeout, run_dir=run_dir),
    ):
        raise error
    _exit_with(error, of_this_rank=True)


def _run_dir(recipe: Recipe, name: str) -> str:
    return recipe.run_dir or f"runs/{name}"


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
    from lbtrain.plan.plan import Plan, make_plan
    from lbtrain.plan.report import print_plans
    from lbtrain.plan.statistics import model_statistics

    recipe = recipe.with_overrides(words)
    plans: list[Plan] = []
    rejected: dict[int, str] = {}
    statistics = model_statistics(recipe, dataset_info(recipe.data))
    for size in sizes:
        try:
            plans.append(
                make_plan(recipe, size, engine=recipe.engine_under("deepspeed"), statistics=statistics)
            )
        except RecipeError as error:
            rejected[size] = str(error)
    print_plans(plans, rejected, index_rows(recipe.data))
    if rejected:
        sys.exit(RecipeError.exit_code)


def _print_deepspeed_config(sizes: list[int], words: list[str], recipe: Recipe) -> None:
    from lbtrain.engines.deepspeed_config import complete_config
    from lbtrain.plan.plan import make_plan

    recipe = recipe.with_overrides(words)
    configs = [
        complete_config(make_plan(recipe, size, engine="deepspeed"), recipe.deepspeed.config)
        for size in sizes
    ]
    print(json.dumps(configs[0] if len(configs) == 1 else configs, indent=1))


def run(
    recipe: Recipe, name: str, *, on_screen: bool = True, wrappers: "Wrappers | None" = None
) -> dict[str, Any]:
    """Trains `recipe` in the world that this process was launched in; returns the summary. Raises UserError.

    May be called again and again in one process group. `on_screen=False` writes the run directory only.
    `wrappers` gets task and engine when both are ready, and returns those that the loop uses: themselves, or
    something around them that measures.
    """
    from lbtrain.faults.training import Faults
    from lbtrain.launch.world import (
        check_world,
        detect_world,
        device_type,
        start_process_group,
    )
    from lbtrain.monitors import Monitors
    from lbtrain.plan.plan import make_plan
    from lbtrain.plan.report import print_plans
    from lbtrain.plan.validate import check_runs_here
    from lbtrain.runs.checkpoint import Checkpoints, Progress
    from lbtrain.runs.directory import RunDirectory
    from lbtrain.runs.fingerprint import (
        check_same_on_all_ranks,
        job_fingerprint,
        notes_on_resume,
        run_fingerprint,
    )
    from lbtrain.runs.records import Records, flat
    from lbtrain.tasks import create_task
    from lbtrain.techniques import create_average, create_techniques
    from lbtrain.train import train

    if not gc.isenabled():  # `main` has switched it off, while everything was imported
        # a full collection waits for a quarter of what it would look at: of the run's own objects, not of a
        # million others
        gc.freeze()
        gc.enable()
    started, world = time.time(), detect_world()
    check_world(world, recipe.world_size)
    check_environment(os.environ, precision=recipe.precision, device=device_type())
    device = start_process_group(world)
    watchdog.share_rendezvous()
    job = job_fingerprint(recipe, recipe.engine_under(world.launcher)) | {"run_dir": _run_dir(recipe, name)}
    check_same_on_all_ranks(job)  # before what depends on the recipe could make the ranks wait for each other
    plan = make_plan(recipe, world.world_size, engine=recipe.engine_under(world.launcher))
    check_runs_here(recipe, plan.engine, device_type())
    directory = RunDirectory(Path(_run_dir(recipe, name)))
    directory.open_for(recipe)
    lock = directory.lock() if world.rank == 0 else None
    checkpoints = Checkpoints(directory.path, keep=recipe.checkpoint.keep)
    loaded = checkpoints.newest()
    progress = loaded.progress if loaded else Progress()
    check_same_on_all_ranks({"newest checkpoint (examples seen)": str(progress.examples)})
    if progress.examples >= plan.total_examples and (finished := directory.summary()):
        _say(
            world.rank,
            f"{directory.path} holds this run already. It finished at step {progress.step} (summary.json), "
            "and there is nothing to do.",
        )
        return finished
    task, model = create_task(recipe, device), build_bare_model(recipe, plan, device)
    index = task.index()
    fingerprint = run_fingerprint(plan, index.parts(), recipe.deepspeed.config)
    check_same_on_all_ranks(fingerprint)
    checkpoints.fingerprint = job | fingerprint
    if loaded:
        _say(world.rank, *notes_on_resume(loaded.fingerprint, checkpoints.fingerprint))
        loaded.check_fits(model)
    average = create_average(recipe, model)
    engine, optimizer = build_engine(recipe, plan, model, device)
    if loaded:
        engine.load(loaded.state)
        _say(world.rank, *loaded.skipped, f"continuing from step {progress.step} ({directory.path})")
    elif on_screen and world.rank == 0:
        print_plans([plan], {}, index.rows())
    leader = world.rank == 0
    if leader:
        directory.write_config(plan, checkpoints.fingerprint)
    records = Records(
        directory.path,
        enabled=leader,
        on_screen=on_screen,
        total_examples=plan.total_examples,
        resumed_at=progress.examples,
    )
    if wrappers:
        task, engine = wrappers(task, engine)
    techniques = create_techniques(plan, model, average, task, engine, records)
    if loaded:
        loaded.restore_extras(techniques.load)
    # all that it held is in its place by now; kept, it would take the memory of a checkpoint on every rank
    # until the end
    del loaded
    with contextlib.closing(records), lock or contextlib.nullcontext():
        monitors = Monitors(plan, task, engine, optimizer, records)
        faults = Faults(plan, task.stream, engine, directory.path, skipped=progress.skipped_steps)
        evaluation = train(plan, task, engine, techniques, progress, checkpoints, monitors, faults)
    result = {
        "recipe": name,
        **flat(evaluation),
        "primary_metric": vars(task.primary_metric),
        "seconds": time.time() - started,
        "expectation": None,
    }
    if leader:
        if recipe.expect:
            result["expectation"] = recipe.expect.compare(records.written("eval"))
            _say(world.rank if on_screen else -1, format_outcome(result["expectation"]))
        result["replaced_images"] = directory.replaced_images()
    return directory.write_summary(
        result | {"world_size": plan.world_size, "engine": plan.engine}, write=leader
    )


def build_bare_model(recipe: Recipe, plan: "Plan", device: "torch.device") -> "torch.nn.Module":
    """The model with its ghost batches, and no engine around it yet."""
    from lbtrain.data import dataset_info
    from lbtrain.nn import convert_to_ghost_batch_norm
    from lbtrain.plan.statistics import freeze
    from lbtrain.tasks import build_model

    model = build_model(recipe, dataset_info(recipe.data)).to(device)
    freeze(model, plan.statistics.without_gradient)
    if plan.statistics.batch_norm_layers:
        convert_to_ghost_batch_norm(
            model, plan.bn_batch_size, momentum=recipe.bn_momentum, compiled=recipe.compile
        )  # the loop groups the ranks
    if recipe.compile:
        model.compile()  # in place: the names of its weights stay, and engines see the same network
    return model


def build_engine(
    recipe: Recipe, plan: "Plan", model: "torch.nn.Module", device: "torch.device"
) -> "tuple[Engine, torch.optim.Optimizer]":
    """The optimizer of `model`, and the engine around both."""
    from lbtrain import optim
    from lbtrain.engines import create_engine
    from lbtrain.plan.scaling import scaled_optimizer

    optimizer = optim.create_optimizer(scaled_optimizer(recipe), model)
    return create_engine(recipe, plan, model, optimizer, device), optimizer


def _say(rank: int, *lines: str) -> None:
    if rank == 0:
        print("\n".join(lines), flush=True)


def help_text(file: Path, doc: str, recipe: Recipe) -> str:
    """The recipe's contract, then every key with its meaning, its range and its value in this recipe."""
    usage = "Usage:\n" + (__doc__ or "").partition("\n\n")[2].rstrip()
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    lines = [doc.strip(), "", usage.replace("recipes/x.py", str(shown)), "", "Keys:"]
    for key, spec in keys():
        choices = ", ".join(map(str, spec.metadata.get("choices", ())))
        lines.append(f"  {key}={written(recipe, key)}")
        lines.append(f"      {spec.metadata['help']}" + (f" One of {choices}." if choices else ""))
    return "\n".join(lines)


def _exit_with(error: UserError, *, of_this_rank: bool = False) -> NoReturn:
    """One message in all: rank 0 speaks (launched or alone), or the rank whose own error it may be: a wrong
    command line, or bad data, which no other knows of.
    """
    rank = os.environ.get("RANK", "0")
    prefix = "error: " if rank == "0" or not of_this_rank else f"error on rank {rank}: "
    if rank == "0" or of_this_rank or isinstance(error, DataError | HostError):
        print(f"{prefix}{error}" if error.exit_code != 75 else str(error), file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


def _on_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """A key or a value that a recipe file gets wrong ends as it does on the command line."""
    if isinstance(error, RecipeError):
        _end_job(error, Recipe(), own_arguments(sys.argv[1:]), Path(sys.argv[0]).stem)
    if isinstance(error, UserError):
        _exit_with(error)
    sys.__excepthook__(kind, error, traceback)


sys.excepthook = _on_uncaught  # from here on, which is the first line of a recipe file
