"""precision=auto: what it becomes on which machine, and that the plan says so."""

import contextlib
import json
import os

import pytest
import torch

from lbtrain import Recipe, run
from lbtrain.errors import LaunchError
from lbtrain.launch.world import World
from lbtrain.plan import precision
from lbtrain.plan.plan import make_plan
from lbtrain.plan.report import rows
from lbtrain.recipe.expectation import Expectation
from lbtrain.recipe.findings import Difference

AUTO = Recipe().vary(
    batch_size=8, bn_batch_size=8, duration="1it", precision="auto", model=dict(name="cifar_resnet8"),
    data=dict(name="digits"),
)  # fmt: skip


@pytest.mark.parametrize(
    "text, native",
    [
        ("flags\t\t: fpu avx512f avx512_bf16\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx512f avx512_vnni\n", False),
        ("flags\t\t: fpu avx512_bf16\nflags\t\t: fpu avx2\n", False),
        ("model name\t: unknown\n", False),
    ],
)
def test_a_cpu_is_asked_for_the_instructions(tmp_path, text, native):
    (tmp_path / "cpuinfo").write_text(text)
    assert precision.device_with_bf16(tmp_path / "cpuinfo") == ("this CPU", native)


def test_a_machine_without_cpuinfo_computes_in_fp32(tmp_path):
    assert precision.device_with_bf16(tmp_path / "none") == ("this CPU", False)


@pytest.mark.parametrize(
    "native, engine, words",
    [
        (True, "ddp", "bf16, channels last (auto: this CPU computes bf16 natively)"),
        (False, "ddp", "fp32 (auto: this CPU does not compute bf16 natively)"),
        (True, "deepspeed", "bf16 (auto: this CPU computes bf16 natively; channels_last needs ZeRO stage 0)"),
    ],
)
def test_the_plan_resolves_and_explains(monkeypatch, native, engine, words):
    monkeypatch.setattr(precision, "device_with_bf16", lambda: ("this CPU", native))
    recipe = AUTO.vary(deepspeed=dict(zero_stage=1)) if engine == "deepspeed" else AUTO
    plan = make_plan(recipe, 1, engine=engine)
    assert rows(plan)["precision"] == words
    assert plan.recipe.channels_last is (native and engine == "ddp")
    assert json.loads(plan.to_json())["precision"] == plan.recipe.precision


@pytest.mark.parametrize("native", [True, False])
def test_the_expected_result_outlives_the_choice(monkeypatch, native):
    monkeypatch.setattr(precision, "device_with_bf16", lambda: ("this CPU", native))
    expect = Expectation("top1_error", 8.0, 0.5, "by hand")
    finding = Difference("folder/plain", "<=0.5", "by hand")
    plan = make_plan(AUTO.vary(precision="auto", expect=expect, finding=finding), 1)
    assert (plan.recipe.expect, plan.recipe.finding) == (expect, finding)
    written = AUTO.vary(precision="fp32", expect=expect)
    plan = make_plan(written.with_overrides(["precision=auto"]), 1)
    found = plan.recipe.expect.compare([{"top1_error": 8.0, "epoch": 1.0}])
    assert (found["outcome"], found["reasons"]) == ("not comparable", ["precision is auto, not fp32"])


@pytest.mark.parametrize(
    ("native", "setting", "rejected"),
    [(True, "bf16", False), (True, "auto", True), (False, "bf16", True), (False, "no", False)],
)
def test_a_launchers_precision_is_compared_with_what_auto_becomes(monkeypatch, native, setting, rejected):
    monkeypatch.setattr(precision, "device_with_bf16", lambda: ("this CPU", native))
    monkeypatch.setattr(run, "check_world", lambda *_: None)
    monkeypatch.setattr(run, "start_process_group", lambda _: "joined")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", setting)
    with pytest.raises(LaunchError, match="MIXED_PRECISION") if rejected else contextlib.nullcontext():
        assert run._join(World(0, 1, 0, "accelerate"), AUTO) == "joined"


def test_a_precision_that_the_recipe_names_is_kept():
    plan = make_plan(AUTO.vary(precision="fp32"), 1)
    assert (rows(plan)["precision"], plan.precision_reason) == ("fp32", "")


@pytest.mark.parametrize(
    "changes, gpu, native, hip, products",
    [
        ({}, True, True, None, "tf32"),
        ({"deterministic": True}, True, True, None, "fp32"),
        ({"precision": "bf16"}, True, True, None, "bf16"),
        ({}, True, False, None, "fp32"),
        ({}, True, True, "6.2", "fp32"),
        ({}, False, True, None, "fp32"),
    ],
)
def test_products_are_in_tf32_where_fp32_allows_it(monkeypatch, changes, gpu, native, hip, products):
    monkeypatch.setattr(precision, "device_with_bf16", lambda: ("this device", native))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert precision.product_precision(AUTO.vary(**{"precision": "fp32", **changes})) == products


@pytest.mark.parametrize(
    "changes, words",
    [
        ({}, "fp32 products in TF32"),
        ({"precision": "bf16"}, "cudnn.benchmark"),
        ({"deterministic": True}, "deterministic algorithms, fp32 products in full precision"),
    ],
)
def test_the_plan_says_what_a_gpu_does_to_exactness(changes, words):
    assert rows(make_plan(AUTO.vary(**{"precision": "fp32", **changes}), 1))[
        "arithmetic of a GPU"
    ].startswith(words)


def test_a_later_run_of_a_process_may_be_deterministic(monkeypatch):
    """torch reads the variable once in a process, at the first product on the GPU."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("benchmark", "allow_tf32"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    before = torch.get_float32_matmul_precision()
    try:
        precision.set_gpu_arithmetic(AUTO.vary(precision="fp32"))
    finally:
        torch.set_float32_matmul_precision(before)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
