"""Launch every point of a scaling study and keep each step's time of each rank.

Each point is launched with and without gradient exchange; the difference is the communication that backward
did not hide. A point that fails or runs past its time is recorded with the reason, and the others go on. The
folder --out must be shared by all hosts.

GPU counts take whole hosts from the hostfile, the first ones first. Run this on the first host.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from lbtrain.data import dataset_info
from lbtrain.errors import RecipeError
from lbtrain.launch.hostfile import read_hostfile
from lbtrain.recipe import Recipe
from lbtrain.recipe.files import load_recipe
from lbtrain.runs.files import read_object, saving, write_whole

from . import arguments
from .measuring.launchers import LAUNCHERS
from .measuring.study import Study, synthetic_settings
from .report import (
    Report,
    ReportError,
    with_data_wait,
    with_efficiency,
)

EXAMPLES = """\
weak and strong scaling on 8 to 256 GPUs, synthetic against real data, three times each:
  measure --hostfile hostfiles/32x8 --gpus 8,16,32,64,128,256 --mode weak,strong --data synthetic,real \\
          --repeats 3 --out runs/scaling recipes/imagenet/resnet50.py data.root=/data/imagenet
ZeRO stages side by side, two micro-steps a step:
  measure ... --zero 0,1,2,3 --accumulation 2
this machine alone, two processes:
  measure --hostfile hostfiles/local --gpus 2 --out runs/local recipes/digits/digits.py data.image_size=32
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add, count, one_of = parser.add_argument, arguments.count, arguments.one_of
    add("--hostfile", required=True, help="which hosts, and how many GPUs on each (hostfiles/README.md)")
    add("--gpus", type=arguments.sizes, required=True, help="cluster sizes, for example 8,16,32")
    add("--mode", type=one_of("weak", "strong"), default=["weak"], help="weak, strong or both (default weak)")
    both = one_of("synthetic", "real")
    add("--data", type=both, default=["synthetic"], help="synthetic, real or both (default synthetic)")
    text = "ZeRO stages, for example 0,1 (default the recipe's; needs deepspeed or colossalai)"
    add("--zero", type=arguments.stages, help=text)
    text = "micro-steps per step, for example 1,4 (default 1)"
    add("--accumulation", type=arguments.sizes, default=[1], help=text)
    add("--repeats", type=count, default=1, help="launches of each point (default 1)")
    add("--steps", type=count, default=30, help="steps timed in a launch (default 30)")
    add("--warmup", type=count, default=5, help="steps left out before them (default 5)")
    add(
        "--per-gpu-batch",
        type=count,
        help="weak scaling: images per GPU and micro-step (default: the recipe's bn_batch_size or "
        "max_micro_batch_size, the smaller)",
    )
    add("--launcher", choices=LAUNCHERS, default="deepspeed", help="default deepspeed")
    add("--timeout", type=count, default=600, help="seconds a launch may take (default 600)")
    add("--port", type=count, default=29500, help="first rendezvous port (default 29500)")
    text = "also time all-reduces at every size above 1; `fit` and `predict` use them"
    add("--collectives", action="store_true", help=text)
    add("--resume", action="store_true", help="keep the points of --out that succeeded, launch the rest")
    add("--out", type=Path, required=True, help="folder for timings, logs and report.json")
    add("recipe", type=Path, help="a recipe file")
    add("overrides", nargs="*", metavar="key=value", help="overrides of the recipe")


def run(options: argparse.Namespace) -> int:
    settings = _settings_before(options)
    recipe = load_recipe(options.recipe).with_overrides(options.overrides)
    if settings not in (None, recipe.to_yaml()):
        raise ReportError(
            f"{options.recipe} has other settings than when {options.out} was measured: give another --out"
        )
    study = Study(options, read_hostfile(options.hostfile), recipe)
    if {"synthetic", "real"} <= set(options.data):
        _check_comparable(recipe)
    points = study.rows()
    report = Report(provenance=_provenance(options, study.origins(points)))
    # Only now: a question that cannot be leaves no folder behind.
    with saving(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    note = _inputs(options) | {"settings": recipe.to_yaml()}
    write_whole(options.out / _NOTE, json.dumps(note, indent=1))
    with study.progress(points):
        if options.collectives:
            report.collectives = [each for gpus in options.gpus if gpus > 1 for each in study.sweep(gpus)]
        for row in points:
            point = study.time_point(row)
            rows = study.utilisation.added_to(with_efficiency([*report.rows, point.row]), report.collectives)
            # A classifier computes the same on synthetic data; drawn shapes are of other sizes than photos.
            report.rows = with_data_wait(rows) if recipe.model.library == "timm" else rows
            # ZeRO stages share the run without exchange: its times are there once.
            report.own_times += [each for each in point.own_times if each not in report.own_times]
            if point.buckets:
                report.provenance.setdefault("buckets", point.buckets)
            # Written after every point, so that a study that is broken off has a report.
            write_whole(options.out / "report.json", report.text())
    failed = [row for row in report.rows if row.status != "ok"]
    print(
        f"{len(report.rows) - len(failed)} of {len(report.rows)} points measured: "
        f"{options.out / 'report.json'}"
    )
    return 0


_NOTE = "study.json"


def _inputs(options: argparse.Namespace) -> dict[str, str]:
    return {
        name: str(getattr(options, name))
        for name in ("recipe", "overrides", "launcher", "steps", "warmup", "per_gpu_batch")
    }


def _settings_before(options: argparse.Namespace) -> str | None:
    """The recipe's settings in earlier calls for the study in --out; None where it is new. Raises ReportError
    where --out holds another study than the one asked for.
    """
    try:
        if not any(options.out.iterdir()):
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReportError(f"--out {options.out} must be a folder ({error.strerror}): give another") from None
    if not options.resume:
        raise ReportError(f"{options.out} is not empty: pass --resume or another --out")
    try:
        before = read_object(options.out / _NOTE, {"settings": str})
    except (OSError, ValueError) as error:
        raise ReportError(
            f"{options.out} holds no study that this version could go on with ({_NOTE}: {error}): give "
            "another --out"
        ) from None
    inputs = _inputs(options)
    for name in inputs:
        if before.get(name) != inputs[name]:
            raise ReportError(
                f"{options.out} was measured with {name}={before.get(name)}, not {inputs[name]}: ask for the "
                "same, or give another --out"
            )
    return str(before["settings"])


def _check_comparable(recipe: Recipe) -> None:
    """Synthetic images must be of the real ones' kind, or the difference is not the loader's."""
    real, synthetic = (
        dataset_info(recipe.data),
        dataset_info(recipe.with_overrides(synthetic_settings(recipe)).data),
    )
    if real.channels != synthetic.channels:
        raise RecipeError(
            f"--data synthetic,real: images of {recipe.data.name} have {real.channels} channel(s), "
            f"synthetic ones {synthetic.channels}, "
            "so the difference would not be the loader's; measure one of them"
        )


def _provenance(options: argparse.Namespace, origins: list[dict[str, Any]]) -> dict[str, Any]:
    inputs = {name: getattr(options, name) for name in ("overrides", "launcher", "steps", "repeats")}
    first, *resumed = origins
    return {"recipe": options.recipe.name, **inputs, **first} | ({"resumed": resumed} if resumed else {})
