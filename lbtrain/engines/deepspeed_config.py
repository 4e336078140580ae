"""The complete DeepSpeed configuration of a plan: every value that DeepSpeed would otherwise choose is
written out.

Needs no deepspeed import, so that `deepspeed_config_for=256` answers on a laptop. A JSON file of
recipes/deepspeed may change logging and, where ZeRO shards, buckets and offload; batch sizes, clipping,
precision and the ZeRO stage come from the recipe.
"""

import copy
import difflib
import json
from pathlib import Path
from typing import Any

from lbtrain.errors import RecipeError
from lbtrain.launch.environment import DEEPSPEED_KEYS, setting_of
from lbtrain.plan.plan import Plan

Config = dict[str, Any]

_ZERO: Config = {
    "contiguous_gradients": True,
    "reduce_scatter": True,
    "reduce_bucket_size": 500_000_000,
    "use_multi_rank_bucket_allreduce": True,
    "allgather_partitions": True,
    "allgather_bucket_size": 500_000_000,
    "compute_grad_norm": True,
    "load_from_fp32_weights": True,
    "elastic_checkpoint": False,
    "offload_param": None,
    "offload_optimizer": None,
    "zenflow": None,
    "sub_group_size": 1_000_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_param_persistence_threshold": 100_000,
    "stage3_model_persistence_threshold": 9_223_372_036_854_775_807,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    "stage3_gather_16bit_weights_on_model_save": False,
    "stage3_module_granularity_threshold": 0,
    "stage3_use_all_reduce_for_fetch_params": False,
    "stage3_allgather_sequential": False,
    "ignore_unused_parameters": True,
    "legacy_stage1": False,
    "round_robin_gradients": False,
    "parameter_alignment": False,
    "zero_hpz_partition_size": 1,
    "zero_quantized_weights": False,
    "zero_quantized_nontrainable_weights": False,
    "zero_quantized_gradients": False,
    "memory_efficient_linear": True,
    "pipeline_loading_checkpoint": False,
    "override_module_apply": True,
    "log_trace_cache_warnings": False,
    "enable_sanity_checks": False,
    "save_muon_momentum_buffer_in_memory": False,
}
_ZERO_KEYS = {"stage", "overlap_comm", *_ZERO}
_DEFAULTS: Config = {
    "steps_per_print": 2**31 - 1,  # the loop prints
    "wall_clock_breakdown": False,
    "memory_breakdown": False,
    "dump_state": False,
    "disable_python_gc": False,
    "disable_allgather": False,
    "communication_data_type": None,
    "prescale_gradients": False,
    "gradient_predivide_factor": 1.0,
    "gradient_allreduce_op": "mean",
    "dataloader_drop_last": False,
    # lbtrain.optim binds LARS and LAMB to the slices and rejects other layouts
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "data_types": {"grad_accum_dtype": None},
    "compile": {"deepcompile": False},
}


def complete_config(plan: Plan, config_file: str = "") -> Config:
    """The DeepSpeed config of this plan; `config_file` is the path of a JSON file with more of it. Raises
    RecipeError for a file that is not valid, or has keys without effect at the plan's ZeRO stage.
    """
    config = copy.deepcopy(_DEFAULTS) | {
        "zero_optimization": copy.deepcopy(_ZERO) | {"overlap_comm": plan.zero_stage == 3}
    }
    _merge(config, _read_config(config_file, plan.zero_stage) if config_file else {})
    config["zero_optimization"]["stage"] = plan.zero_stage
    # The loop owns the accumulation window and divides the loss, because DeepSpeed's own window is misaligned
    # by a change of its length. So DeepSpeed sees a window of one; the true numbers are in plan.json.
    return config | {
        "train_batch_size": plan.split.micro_batch_size * plan.world_size,
        "train_micro_batch_size_per_gpu": plan.split.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": True,
        "gradient_clipping": plan.recipe.optimizer.clip_norm,  # DeepSpeed's default is 1.0
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {
            "enabled": plan.recipe.precision != "fp32",
            "dtype": {"bf16": "bfloat16", "fp16": "float16"}.get(plan.recipe.precision, "bfloat16"),
            "lower_precision_safe_modules": [
                "torch.nn.Linear",
                "torch.nn.Conv1d",
                "torch.nn.Conv2d",
                "torch.nn.Conv3d",
            ],
        },
    }


def _merge(config: Config, changes: Config) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        else:
            config[key] = value


def _read_config(path: str, stage: int) -> Config:
    try:
        config = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise RecipeError(f"deepspeed.config={path}: {error}") from error
    if not isinstance(config, dict):
        raise RecipeError(f"deepspeed.config={path}: holds a {type(config).__name__}, not a JSON object")
    if not isinstance(config.get("zero_optimization", {}), dict):
        raise RecipeError(
            f"deepspeed.config={path}: zero_optimization is {config['zero_optimization']!r}, not a JSON "
            "object"
        )
    zero = [f"zero_optimization.{key}" for key in config.get("zero_optimization", {})]
    for key in [*(config.keys() - {"zero_optimization"}), *zero]:
        _check_key(path, key, stage)
    return config


def _check_key(path: str, key: str, stage: int) -> None:
    """Raises RecipeError for a key that a file may not hold, or that does nothing at this ZeRO stage."""
    setting = setting_of(key, DEEPSPEED_KEYS)
    zero = key.removeprefix("zero_optimization.")
    if setting is None or (zero != key and zero not in _ZERO_KEYS):
        known = [name for setting in DEEPSPEED_KEYS for name in setting.names.split()]
        near = difflib.get_close_matches(
            key, [*known, *(f"zero_optimization.{name}" for name in _ZERO_KEYS)], n=1
        )
        hint = f"did you mean {near[0]}?" if near else "take it out of the file"
        raise RecipeError(f"deepspeed.config={path}: {key} is not a key of DeepSpeed's configuration; {hint}")
    if setting.outcome == "rejected":
        raise RecipeError(f"deepspeed.config={path}: {key}: {setting.why}; take it out of the file")
    if setting.needs_zero and stage == 0:
        raise RecipeError(
            f"deepspeed.config={path}: {key} has no effect at deepspeed.zero_stage=0, where torch's "
            "DistributedDataParallel exchanges the gradients; set deepspeed.zero_stage=1, or take it out of "
            "the file"
        )
