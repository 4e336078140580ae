"""What an engine cannot do, anywhere or on this machine, each with a suggested fix. docs/engines.md has the
table, with the errors that the engine's library gives where it is not stopped here.
"""

import importlib.util
import os
import shutil

from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe, written

SHARDING = ("deepspeed", "colossalai")
"""Engines with a `zero_stage` of their own."""

_STREAMS = "ColossalAI's LowLevelZero sends gradients on GPU streams and stops with 'device is required'"
NOT_ON_CPU = {
    ("colossalai", "colossalai.zero_stage=1"): (
        _STREAMS,
        "colossalai.zero_stage=0, or engine=deepspeed deepspeed.zero_stage=1",
    ),
    ("colossalai", "colossalai.zero_stage=2"): (
        _STREAMS,
        "colossalai.zero_stage=0, or engine=deepspeed deepspeed.zero_stage=2",
    ),
    ("accelerate", "precision=fp16"): (
        "accelerate trains in fp32 there and does not say so",
        "precision=bf16, or engine=ddp",
    ),
}
"""What an engine needs a GPU for: the reason, and what to write instead."""


def check_engine(recipe: Recipe, engine: str) -> None:
    """Raises RecipeError for what `engine` cannot do anywhere."""
    for name in SHARDING:
        stage = recipe.zero_stage_under(name)
        if stage and engine != name:
            raise RecipeError(
                f"{name}.zero_stage={stage} needs engine={name}, but this run uses engine={engine}. Launch "
                f"with {'colossalai run' if name == 'colossalai' else name}, or set engine={name}."
            )
    if engine == "colossalai" and recipe.colossalai.zero_stage == 3:
        raise RecipeError(
            "colossalai.zero_stage=3 would be Gemini, whose optimizer takes ColossalAI's own Adams only, not "
            f"optimizer.name={recipe.optimizer.name}. Use engine=deepspeed deepspeed.zero_stage=3, or "
            "colossalai.zero_stage=2."
        )
    whole_weights = {
        "absa.max_batch_size": recipe.absa.max_batch_size,
        "ema.decay": recipe.ema.decay,
        "measure.distance": recipe.measure.distance,
    }
    for key, value in whole_weights.items():
        if value and recipe.zero_stage_under(engine) == 3:
            raise RecipeError(
                f"{key}={written(recipe, key)} needs whole weights on every rank. Use {engine}.zero_stage=0, "
                "1 or 2, not 3."
            )


def check_compiler(device_type: str) -> None:
    """Raises RecipeError where this machine cannot compile for `device_type`, cuda or cpu."""
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    if device_type == "cpu" and not any(shutil.which(name) for name in compilers):
        raise RecipeError(
            "compile=true on a machine without GPU needs a C++ compiler: install g++, or set CXX to another."
        )
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        raise RecipeError("compile=true on a GPU needs the package triton: install it, or use compile=false.")


_TRACKERS = ("wandb", "trackio", "mlflow", "comet_ml")
"""Each needs accelerate and the package of its name. TensorBoard, which is the default, may be absent."""


def _check_trackers(recipe: Recipe) -> None:
    for name in recipe.log.trackers:
        needed = ("accelerate", name) if name in _TRACKERS else ()
        missing = [package for package in needed if importlib.util.find_spec(package) is None]
        if missing:
            raise RecipeError(
                f"log.trackers={name} needs {' and '.join(missing)}, which is not installed here: "
                f"pip install {' '.join(missing)}, or leave {name} out."
            )


def check_runs_here(recipe: Recipe, engine: str, device_type: str) -> None:
    """Raises RecipeError for what this machine lacks. `device_type`: cuda or cpu."""
    for setting in (
        f"{engine}.zero_stage={recipe.zero_stage_under(engine)}",
        f"precision={recipe.precision}",
    ):
        if device_type == "cpu" and (engine, setting) in NOT_ON_CPU:
            reason, remedy = NOT_ON_CPU[engine, setting]
            raise RecipeError(
                f"{setting} under engine={engine} needs a GPU, and this machine has none: {reason}. Use "
                f"{remedy}."
            )
    _check_trackers(recipe)
    if recipe.compile:
        check_compiler(device_type)
    if engine == "colossalai" and importlib.util.find_spec("colossalai") is None:
        raise RecipeError(
            "engine=colossalai needs ColossalAI, which is not installed here. `make colossalai` installs it "
            "on top of .venv, in .venv-colossalai (docs/engines.md). Or set engine=ddp."
        )
