"""The DeepSpeed configuration is complete: nothing that matters is left to DeepSpeed's own choice."""

import json
import os
from pathlib import Path

import pytest

from lbtrain.engines.deepspeed_config import complete_config
from lbtrain.errors import RecipeError
from lbtrain.launch.environment import DEEPSPEED_KEYS, setting_of
from lbtrain.plan.plan import Plan, make_plan
from lbtrain.plan.statistics import ModelStatistics
from lbtrain.recipe import Recipe

COUNTED = ModelStatistics(
    parameters=1000,
    not_decayed=10,
    without_trust_ratio=12,
    batch_norm_layers=1,
    activation_bytes_per_image=100,
)

REMOVED = "looked up to be refused: DeepSpeed has removed it"
OFF = "a part of DeepSpeed that is off unless its section is there"
LEFT_OUT = {
    "amp": REMOVED,
    "eigenvalue": REMOVED,
    "elasticity": REMOVED,
    "curriculum_learning": REMOVED,
    "graph_harvesting": REMOVED,
    "progressive_layer_drop": REMOVED,
    "quantize_training": REMOVED,
    "sparse_attention": REMOVED,
    "nebula": REMOVED,
    "autotuning": REMOVED,
    "comet": OFF,
    "csv_monitor": OFF,
    "tensorboard": OFF,
    "wandb": OFF,
    "comms_logger": OFF,
    "compression_training": OFF,
    "hybrid_engine": OFF,
    "datastates_ckpt": OFF,
    "expert_parallel": OFF,
    "tensor_parallel": OFF,
    "weight_quantization": OFF,
    "timers": OFF,
    "flops_profiler": OFF,
    "pipeline": "read by pipeline engines only",
    "log_level": "what is printed",
    "vocabulary_size": "only warns of an awkward size",
    "checkpoint": "of DeepSpeed's own checkpoints, which are not used",
    "sparse_gradients": "of embeddings, off",
    "use_data_before_expert_parallelism": "of mixtures of experts",
    "seq_parallel_communication_data_type": "of sequence parallelism",
    "data_types.buffer_dtype": "none is cast unless named",
    "data_types.param_dtype": "none is cast unless named",
    "data_types.keep_in_fp32_modules": "none is cast unless named",
    "zero_optimization.mics_hierarchical_params_gather": "of MiCS, which is off",
    "zero_optimization.mics_shard_size": "of MiCS, which is off",
    "zero_optimization.zeropp_loco_param": "of ZeRO++ with quantized gradients, which are off",
}
OLD_NAMES = {
    "cpu_offload",
    "cpu_offload_param",
    "cpu_offload_use_pin_memory",
    "stage3_gather_fp16_weights_on_model_save",
}
LATER = {"leaf_module": "names modules of ZeRO-3 that are fetched whole; none by default"}


def plan(**changes) -> Plan:
    recipe = Recipe().vary(batch_size=64, bn_batch_size=8).vary(**changes)
    return make_plan(recipe, 1, engine="deepspeed", statistics=COUNTED)


class Watched(dict):
    """Writes down every key that is looked up and is not there."""

    def __init__(self, content: dict, absent: set[str], path: str = ""):
        inner = {
            key: Watched(value, absent, f"{path}{key}.") if isinstance(value, dict) else value
            for key, value in content.items()
        }
        super().__init__(inner)
        self.absent, self.path = absent, path

    def _look(self, key: str) -> None:
        if not dict.__contains__(self, key):
            self.absent.add(f"{self.path}{key}")

    def get(self, key, default=None):
        self._look(key)
        return super().get(key, default)

    def __contains__(self, key) -> bool:
        self._look(key)
        return super().__contains__(key)

    def __getitem__(self, key):
        self._look(key)
        return super().__getitem__(key)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


@pytest.fixture(scope="module")
def deepspeed_config():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    return DeepSpeedConfig


def test_the_watch_sees_what_is_absent(deepspeed_config):
    absent: set[str] = set()
    content = complete_config(plan())
    del content["gradient_clipping"]
    deepspeed_config(Watched(content, absent))
    assert "gradient_clipping" in absent


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_no_value_is_left_to_deepspeeds_default(deepspeed_config, stage):
    absent: set[str] = set()
    read = deepspeed_config(Watched(complete_config(plan(deepspeed=dict(zero_stage=stage))), absent))
    assert read.zero_config.stage == stage
    assert absent - set(LEFT_OUT) == set()


def test_what_is_left_out_is_still_looked_up(deepspeed_config):
    """So that the list of exceptions does not outlive its reasons by much."""
    absent: set[str] = set()
    deepspeed_config(Watched(complete_config(plan()), absent))
    assert len(set(LEFT_OUT) - absent) <= 3


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_field_of_zero_is_written(deepspeed_config, stage):
    content = complete_config(plan(deepspeed=dict(zero_stage=stage)))["zero_optimization"]
    fields = type(deepspeed_config(complete_config(plan())).zero_config).model_fields
    names = {field.alias or name for name, field in fields.items()}
    off = {name.partition(".")[2] for name in LEFT_OUT if name.startswith("zero_optimization.")}
    assert names - set(content) - off == OLD_NAMES | set(LATER)
    assert set(content) <= names


def test_deepspeed_reads_what_the_plan_says(deepspeed_config):
    read = deepspeed_config(complete_config(plan(optimizer=dict(clip_norm=0.25))))
    assert (read.train_batch_size, read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps) == (
        64,
        64,
        1,
    )
    assert read.gradient_clipping == 0.25
    assert (read.optimizer_name, read.scheduler_name) == (None, None)


def test_nothing_is_clipped_unless_asked(deepspeed_config):
    assert complete_config(plan())["gradient_clipping"] == 0
    assert deepspeed_config(complete_config(plan())).gradient_clipping == 0


@pytest.mark.parametrize(
    ("precision", "enabled", "dtype"),
    [("fp32", False, None), ("bf16", True, "bfloat16"), ("fp16", True, "float16")],
)
def test_precision_is_autocast_and_weights_stay_whole(precision, enabled, dtype):
    content = complete_config(plan(precision=precision))
    assert content["torch_autocast"]["enabled"] is enabled
    assert not enabled or content["torch_autocast"]["dtype"] == dtype
    assert (content["fp16"], content["bf16"]) == ({"enabled": False}, {"enabled": False})


def config(tmp_path: Path, content: object) -> str:
    path = tmp_path / "mechanics.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_file_of_mechanics_changes_what_it_names(tmp_path):
    path = config(tmp_path, {"wall_clock_breakdown": True, "zero_optimization": {"reduce_bucket_size": 7}})
    sharded = plan(deepspeed=dict(zero_stage=1))
    changed, base = complete_config(sharded, path), complete_config(sharded)
    assert changed["wall_clock_breakdown"] is True and changed["zero_optimization"]["reduce_bucket_size"] == 7
    changed["wall_clock_breakdown"], changed["zero_optimization"]["reduce_bucket_size"] = False, 500_000_000
    assert changed == base == complete_config(sharded)


OWNED = [setting for setting in DEEPSPEED_KEYS if setting.why == "it comes from the recipe"]


@pytest.mark.parametrize("key", OWNED[0].names.split())
def test_a_file_of_mechanics_holds_no_hyperparameter(tmp_path, key):
    section, _, inner = key.partition(".")
    path = config(tmp_path, {section: {inner: 1}} if inner else {section: 1})
    with pytest.raises(RecipeError, match=f"{key}: it comes from the recipe"):
        complete_config(plan(), path)


@pytest.mark.parametrize(
    "content", ["", "[]", "3", "{", '{"zero_optimization": 3}', '{"zero_optimization": null}']
)
def test_a_file_that_cannot_be(tmp_path, content):
    with pytest.raises(RecipeError, match=r"deepspeed\.config="):
        complete_config(plan(), config(tmp_path, content))


def test_a_file_that_is_not_there():
    with pytest.raises(RecipeError, match=r"deepspeed\.config=/no/such\.json"):
        complete_config(plan(), "/no/such.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"zero_optimization": {"zero_quantized_gradients": True}}, "changes what is computed"),
        (
            {"progressive_layer_drop": {"enabled": True}},
            "progressive_layer_drop: it changes what is computed",
        ),
        ({"gradient_allreduce_op": "sum"}, "changes what is computed"),
        (
            {"zero_optimization": {"round_robin_gradients": True}},
            "round_robin_gradients: .*in another order",
        ),
        ({"tensor_parallel": {"autotp_size": 2}}, "data parallel alone"),
        ({"wall_clock_breakdwn": True}, "did you mean wall_clock_breakdown"),
        ({"zero_optimization": {"reduce_bucket": 1}}, "did you mean zero_optimization.reduce_bucket_size"),
        ({"stage3_prefetch_bucket_size": 1}, "did you mean zero_optimization.stage3_prefetch_bucket_size"),
    ],
)
def test_a_key_that_changes_the_run_or_does_nothing_is_rejected(tmp_path, content, said):
    with pytest.raises(RecipeError, match=said):
        complete_config(plan(), config(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [
        {"communication_data_type": "bf16"},
        {"prescale_gradients": True},
        {"gradient_predivide_factor": 4.0},
        {"data_types": {"grad_accum_dtype": "fp32"}},
        {"zero_optimization": {"overlap_comm": True}},
        {"zero_optimization": {"reduce_bucket_size": 7}},
        {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
    ],
)
def test_a_key_of_zeros_exchange_is_rejected_where_nothing_is_sharded(tmp_path, content):
    path = config(tmp_path, content)
    with pytest.raises(RecipeError, match=r"no effect at deepspeed\.zero_stage=0.*zero_stage=1, or take it"):
        complete_config(plan(), path)
    assert complete_config(plan(deepspeed=dict(zero_stage=1)), path)["zero_optimization"]["stage"] == 1


@pytest.mark.parametrize(("file", "stage"), [("breakdown", 0), ("small_buckets", 1)])
def test_the_files_of_the_recipes_are_accepted_at_their_stage(file, stage):
    path = Path(__file__).parents[2] / f"recipes/deepspeed/{file}.json"
    changes = json.loads(path.read_text())
    content = complete_config(plan(deepspeed=dict(zero_stage=stage)), str(path))
    assert changes.get("zero_optimization", {}).items() <= content["zero_optimization"].items()


class _Read(dict):
    """A config that notes which keys DeepSpeed looks for."""

    def __init__(self, content: dict):
        super().__init__(content)
        self.read: set[str] = set()

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.read.add(key)
        return super().__contains__(key)

    def keys(self):
        return self

    def __deepcopy__(self, memo):
        return self


def test_every_key_that_deepspeed_looks_for_is_in_the_table(deepspeed_config):
    content = _Read({"train_batch_size": 1})
    zero = type(deepspeed_config(content).zero_config).model_fields
    names = [*content.read - {"zero_optimization"}, *(f"zero_optimization.{name}" for name in zero)]
    assert len(content.read) > 50
    assert [name for name in names if setting_of(name, DEEPSPEED_KEYS) is None] == []
