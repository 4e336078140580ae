"""What the engines cannot do, and what to do instead: known when the plan is made, not found out in the
middle of a run.

docs/engines.md has the table of what each engine can, with the errors that its library gives where it is not
stopped here.
"""

import importlib.util

from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe

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
"""What an engine needs a GPU for: why, and what to write instead."""


def check_engine(recipe: Recipe, engine: str) -> None:
    """Raises RecipeError for what `engine` cannot do anywhere."""
    for name in SHARDING:
        stage = recipe.zero_stage_under(name)
        if stage and engine != name:
            raise RecipeError(
                f"{name}.zero_stage={stage} needs engine={name}, and this is engine={engine}: "
                f"launch with {'colossalai run' if name == 'colossalai' else name}, or set engine={name}"
            )
    if engine == "colossalai" and recipe.colossalai.zero_stage == 3:
        raise RecipeError(
            "colossalai.zero_stage=3 would be Gemini, whose optimizer takes ColossalAI's own Adams only, not "
            f"optimizer.name={recipe.optimizer.name}: use engine=deepspeed deepspeed.zero_stage=3, or "
            "colossalai.zero_stage=2"
        )


def check_runs_here(engine: str, zero_stage: int, precision: str, device_type: str) -> None:
    """Raises RecipeError for what this machine lacks. `device_type`: cuda or cpu."""
    for asked in (f"{engine}.zero_stage={zero_stage}", f"precision={precision}"):
        if device_type == "cpu" and (engine, asked) in NOT_ON_CPU:
            reason, remedy = NOT_ON_CPU[engine, asked]
            raise RecipeError(
                f"{asked} under engine={engine} on a machine without GPU: {reason}. Use {remedy}"
            )
    if engine == "colossalai" and importlib.util.find_spec("colossalai") is None:
        raise RecipeError(
            "engine=colossalai: ColossalAI is not installed here. `make colossalai` lays it over .venv, in "
            ".venv-colossalai "
            "(docs/engines.md); or set engine=ddp"
        )
