"""One run, from its recipe to its summary: everything that is made ready before the loop starts."""

import contextlib
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lbtrain import optim
from lbtrain.data import dataset_info
from lbtrain.data.pixels import notes_on_inputs
from lbtrain.engines import Engine, create_engine
from lbtrain.errors import RecipeError
from lbtrain.faults import watchdog
from lbtrain.faults.training import Faults
from lbtrain.launch.environment import check_environment
from lbtrain.launch.world import World, check_world, detect_world, device_type, start_process_group
from lbtrain.monitors import Monitors
from lbtrain.nn import convert_to_ghost_batch_norm
from lbtrain.output import say
from lbtrain.plan.plan import Plan, make_plan
from lbtrain.plan.precision import resolve_precision, set_gpu_arithmetic
from lbtrain.plan.report import print_plans
from lbtrain.plan.scaling import scaled_optimizer
from lbtrain.plan.statistics import freeze
from lbtrain.plan.validate_engine import check_runs_here
from lbtrain.recipe import Recipe, keys, written
from lbtrain.recipe.expectation import format_outcome
from lbtrain.recipe.targets import all_reached
from lbtrain.runs import legs
from lbtrain.runs.banners import end_banner, start_banner
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.fingerprint import (
    INITIAL_WEIGHTS,
    check_same_on_all_ranks,
    job_fingerprint,
    notes_on_resume,
    run_fingerprint,
)
from lbtrain.runs.loading import LoadedCheckpoint
from lbtrain.runs.progress import Progress
from lbtrain.runs.records import Records
from lbtrain.runs.rows import flat
from lbtrain.tasks import Task, build_model, create_task
from lbtrain.tasks.weights import loaded_weights, weights_file
from lbtrain.techniques import create_average, create_techniques
from lbtrain.train import train

Wrappers = Callable[[Task, Engine], tuple[Task, Engine]]


def run(
    recipe: Recipe, name: str, *, on_screen: bool = True, wrappers: Wrappers | None = None
) -> dict[str, Any]:
    """Trains `recipe` in the world that this process was launched in; returns the summary. Raises UserError.

    May be called again and again in one process group. `on_screen=False` writes the run directory only.
    `wrappers` gets task and engine when both are ready, and returns those that the loop uses: themselves, or
    something around them that measures.
    """
    _resume_garbage_collection()
    started, world = time.time(), detect_world()
    device = _join(world, recipe)
    directory = RunDirectory(Path(recipe.run_dir_for(name)))
    plan, job = _agree_on_plan(recipe, world, name)
    recipe = plan.recipe  # with the precision that auto has become, as the directory of a run records it
    directory.open_for(recipe)
    leader = world.rank == 0
    with directory.lock() if leader else contextlib.nullcontext():
        # No rank reads before rank 0 has the lock: a job that ends may still write its last checkpoint.
        check_same_on_all_ranks({})
        checkpoints = Checkpoints(directory.path, keep=recipe.checkpoint.keep, best=recipe.checkpoint.best)
        loaded, changes = _start_of(recipe, directory, checkpoints)
        progress = loaded.progress if loaded else Progress()
        missed_best = loaded is not None and checkpoints.missed_best(loaded)
        checkpoints.started = started - (loaded.seconds if loaded else 0.0)
        check_same_on_all_ranks(
            {
                "newest checkpoint (examples seen)": str(progress.examples),
                "best value so far": str(checkpoints.best.value),
            }
        )
        finished = directory.summary()
        if (
            finished
            and finished["examples"] == progress.examples  # not that of an earlier leg
            and (progress.examples >= plan.total_examples or all_reached(recipe.stop_at, finished))
        ):
            _print_on_leader(
                world,
                f"{directory.path} holds this run already. It finished at step {progress.step} "
                "(summary.json), and there is nothing to do.",
            )
            return finished
        if not loaded:
            _check_nothing_is_replaced(directory, checkpoints)

        # A run that continues has its weights in the checkpoint: the file of its start need not be there.
        initial = recipe.vary(model=dict(weights="")) if loaded else recipe
        task, model = create_task(recipe, device), build_bare_model(initial, plan, device)
        weights = loaded_weights(model)
        start = loaded.fingerprint.get(INITIAL_WEIGHTS, "") if loaded else weights.digest
        checkpoints.fingerprint = _agree_on_data(plan, task, start, job)
        checkpoints.about = task.about()
        if loaded:
            _print_on_leader(world, *notes_on_resume(loaded.fingerprint, checkpoints.fingerprint))
            before = loaded.extras.get("inputs", {})
            _print_on_leader(world, *notes_on_inputs(before, checkpoints.about["inputs"]))
            loaded.check_fits(model)
        average = create_average(recipe, model)
        engine, optimizer = build_engine(plan, model, device)
        if loaded:
            engine.load(loaded.state)
            _print_on_leader(
                world, *loaded.skipped, f"continuing from step {progress.step} ({directory.path})"
            )
        elif on_screen and leader:
            with contextlib.suppress(OSError):
                print_plans([plan], {}, task.index().rows())
            classes = len(checkpoints.about["class_names"])
            _print_on_leader(world, *start_banner(plan, classes, directory.path))
            _print_on_leader(world, *weights.notes)

        if leader:
            if loaded:
                legs.record(directory.path, loaded, changes)
            if loaded and missed_best:
                checkpoints.best.keep(loaded.path, progress.step, loaded.best[recipe.checkpoint.best])
            directory.set_aside_divergence()
            directory.write_config(plan, checkpoints.fingerprint)
        records = Records(
            directory.path,
            enabled=leader,
            on_screen=on_screen,
            total_examples=plan.total_examples,
            resumed_at=progress.examples,
            trackers=recipe.log.trackers,
            config={name: written(recipe, name) for name, _ in keys()},
        )
        if wrappers:
            task, engine = wrappers(task, engine)
        techniques = create_techniques(plan, model, average, task, engine, records)
        if loaded:
            loaded.restore_extras(techniques.load)
        # All that it held is in its place by now. Kept, it would take the memory of a checkpoint on every
        # rank until the end.
        del loaded
        with contextlib.closing(records):
            monitors = Monitors(plan, task, engine, optimizer, records, initial_weights=start)
            faults = Faults(plan, task.stream, engine, directory.path, skipped=progress.skipped_steps)
            ended = _target_was_reached(recipe, records, progress, engine)
            evaluation = train(
                plan, task, engine, techniques, progress, checkpoints, monitors, faults, ended=ended
            )
    result = {
        "recipe": name,
        **flat(evaluation),
        "primary_metric": vars(task.primary_metric),
        "seconds": time.time() - checkpoints.started,
        "expectation": _graded(recipe, directory, records) if leader else None,
    }
    if on_screen and result["expectation"]:
        _print_on_leader(world, format_outcome(result["expectation"]))
    if leader:
        result["replaced_images"] = directory.replaced_images()
    result |= {"world_size": plan.world_size, "engine": plan.engine}
    summary = directory.write_summary(result, write=leader)
    if on_screen:
        _print_on_leader(world, *end_banner(directory.path, summary))
    return summary


def _resume_garbage_collection() -> None:
    """`main` has switched it off while everything was imported. A full collection waits for a quarter of what
    it would look at: of the run's own objects, not of a million others.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _join(world: World, recipe: Recipe) -> torch.device:
    """Joins the other ranks, if they are the ones that were asked for; returns this rank's device."""
    check_world(world, recipe.world_size)
    resolved, _ = resolve_precision(recipe, recipe.engine_under(world.launcher))
    check_environment(os.environ, precision=resolved.precision, device=device_type())
    device = start_process_group(world)
    watchdog.share_rendezvous()
    return device


def _start_of(
    recipe: Recipe, directory: RunDirectory, checkpoints: Checkpoints
) -> tuple[LoadedCheckpoint | None, list[str]]:
    """The checkpoint to go on from, if there is one, and what a leg from there changes: of this run, else of
    the one that `resume` names.
    """
    if loaded := checkpoints.newest():
        legs.check_start(recipe, directory.path)
        return loaded, legs.changed_keys(loaded.recipe, recipe)
    if loaded := legs.checkpoint_elsewhere(recipe):
        return loaded, [f"run_dir is {directory.path}", *legs.changed_keys(loaded.recipe, recipe)]
    return None, []


def _check_nothing_is_replaced(directory: RunDirectory, checkpoints: Checkpoints) -> None:
    """Raises RecipeError where a run without checkpoints has left what a start anew would replace."""
    if directory.summary():
        raise RecipeError(
            f"{directory.path} holds a finished run (summary.json) whose checkpoints are gone: to train it "
            "anew would replace its records. Choose another run_dir, or remove this one."
        )
    if (best := checkpoints.folder / "best.pt").exists():
        raise RecipeError(
            f"{best} is of a run whose other checkpoints are gone: to train it anew would replace it. Choose "
            f"another run_dir, remove this one, or go on from there with resume={best}."
        )


def _target_was_reached(recipe: Recipe, records: Records, progress: Progress, engine: Engine) -> bool:
    """Whether the evaluation at this position has ended the run already: a crash may have taken the summary
    alone. Rank 0 has the rows. Collective.
    """
    if not (recipe.stop_at and progress.examples):
        return False
    here = [row for row in records.written("eval") if row["examples"] == progress.examples]
    reached = any(all_reached(recipe.stop_at, row) for row in here)
    return bool(engine.mean(torch.tensor([float(reached)], device=engine.device)) > 0)


def _graded(recipe: Recipe, directory: RunDirectory, records: Records) -> dict[str, Any] | None:
    """The result compared with what the recipe expects, if it does, in words that say where legs differ."""
    if not recipe.expect:
        return None
    expected = recipe.expect.with_changes(legs.reasons(legs.recorded(directory.path)))
    return expected.compare(records.written("eval"))


def _agree_on_plan(recipe: Recipe, world: World, name: str) -> tuple[Plan, dict[str, str]]:
    """The plan of this job, and the fingerprint that all ranks have in common."""
    engine = recipe.engine_under(world.launcher)
    job = job_fingerprint(recipe, engine) | {"run_dir": recipe.run_dir_for(name)}
    job["file of model.weights"] = "there" if weights_file(recipe.model.weights) else "not there"
    check_same_on_all_ranks(job)  # before what depends on the recipe could make the ranks wait for each other
    plan = make_plan(recipe, world.world_size, engine=engine)
    check_runs_here(plan.recipe, engine, device_type())
    set_gpu_arithmetic(plan.recipe)
    return plan, job


def _agree_on_data(plan: Plan, task: Task, initial_weights: str, job: dict[str, str]) -> dict[str, str]:
    """The fingerprint of job, plan, data and initial weights (a digest of those that were loaded), which all
    ranks have in common.
    """
    fingerprint = run_fingerprint(plan, task.index().parts(), plan.recipe.deepspeed.config)
    fingerprint |= {INITIAL_WEIGHTS: initial_weights} if initial_weights else {}
    check_same_on_all_ranks(fingerprint)
    return job | fingerprint


def _print_on_leader(world: World, *lines: str) -> None:
    if world.rank == 0:
        for line in lines:
            say(line)


def build_bare_model(recipe: Recipe, plan: Plan, device: torch.device) -> nn.Module:
    """The model with its ghost batches, and no engine around it yet."""
    model = build_model(recipe, dataset_info(recipe.data)).to(device)
    freeze(model, plan.statistics.without_gradient)
    if plan.statistics.batch_norm_layers:  # the loop groups the ranks
        convert_to_ghost_batch_norm(
            model, plan.bn_batch_size, momentum=recipe.bn_momentum, compiled=recipe.compile
        )
    if recipe.compile:
        # In place: the names of its weights stay, and engines see the same network. For each shape apart, and
        # without what another run of this process compiled: at a second shape torch goes over to symbolic
        # ones, which takes minutes to compile with batch norm in the graph.
        torch.compiler.reset()
        model.compile(dynamic=False)
    return model


def build_engine(plan: Plan, model: nn.Module, device: torch.device) -> tuple[Engine, torch.optim.Optimizer]:
    """The optimizer of `model`, and the engine around both."""
    optimizer = optim.create_optimizer(scaled_optimizer(plan.recipe), model)
    engine = create_engine(plan, model, optimizer, device)
    if not plan.recipe.compile:  # a compiled graph also holds what is read without a gradient
        for name in plan.statistics.without_gradient:  # not stepped; but a loss that depends on one is seen
            model.get_parameter(name).requires_grad_(True)
    return engine, optimizer
