"""LARS and LAMB on ColossalAI's slices take the step of one process that holds whole layers."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lab.ranks import run_on_ranks
from lbtrain.optim import UnsupportedSharding, bind_colossalai, colossalai_shards, deepspeed_shards
from tests.colossalai.sharded import boost, steps, train_colossalai
from tests.colossalai.streams import streams_on_cpu
from tests.distributed.sharded import (
    LIMIT,
    VARIANTS,
    Run,
    assert_same_as_one_process,
    deepspeed_engine,
    deepspeed_steps,
    difference,
    plain_steps,
    train_plain,
)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("run", [run for run in VARIANTS if run.optimizer != "muon"], ids=str)
def test_same_weights_as_one_process(stage, run):
    assert_same_as_one_process(run, 2, train_colossalai, stage)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("run", [run for run in VARIANTS if run.optimizer == "muon"], ids=str)
def test_muon_steps_whole_matrices_and_never_sees_a_layer_without_gradient(stage, run):
    """ColossalAI takes such a layer out of the groups, so it is not decayed; every other layer agrees."""
    expected, start = train_plain(run), run.model().state_dict()
    for weights in run_on_ranks(2, train_colossalai, run, stage):
        torch.testing.assert_close(weights.pop("unused.weight"), start["unused.weight"], rtol=0, atol=0)
        same = {name: weight for name, weight in expected.items() if name in weights}
        assert difference(weights, same) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("optimizer", ["lars", "lamb"])
def test_four_ranks(stage, optimizer):
    """More ranks than some layers have elements: a rank then holds padding alone."""
    assert_same_as_one_process(Run(optimizer, accumulation=2, clip=0.3), 4, train_colossalai, stage)


def _error(function: Any, *args: Any, **kwargs: Any) -> str:
    try:
        function(*args, **kwargs)
    except UnsupportedSharding as error:
        assert error.exit_code == 2
        return str(error)
    return "no error"


def _errors_of_unbound() -> list[str]:
    return [
        _error(train_colossalai, Run(name, steps=1), stage, bind=False)
        for name in ("lars", "lamb")
        for stage in (1, 2)
    ]


def test_unbound_optimizers_are_rejected():
    for errors in run_on_ranks(2, _errors_of_unbound):
        assert len(errors) == 4 and all(
            "under ColossalAI bind_colossalai after booster.boost" in error for error in errors
        )


def _errors_of_strange_layouts() -> list[str]:
    with streams_on_cpu():
        run = Run(steps=1)
        model = run.model()
        optimizer = run.make_optimizer(model)
        wrapped, zero = boosted = boost(run, 1, model, optimizer)
        part = max(zero._master_param_groups_of_current_rank[0], key=torch.numel)
        if dist.get_rank() == 1:  # one rank alone sees it, all must raise
            part.data[3] += 1
        errors = [_error(bind_colossalai, optimizer, boosted)]
        part.data[3] -= dist.get_rank()
        zero._cpu_offload = True
        errors.append(_error(bind_colossalai, optimizer, boosted))
        zero._cpu_offload = False
        groups = zero.param_to_pg
        zero.param_to_pg = {parameter: (group, group) for parameter, group in groups.items()}
        errors.append(_error(bind_colossalai, optimizer, boosted))
        del zero.param_to_pg
        errors.append(_error(bind_colossalai, optimizer, boosted))
        errors.append(_error(bind_colossalai, optimizer, (wrapped, object())))
    return errors


def test_layouts_that_are_not_understood_are_rejected_on_every_rank():
    words = [
        "not lay out",
        "cpu_offload",
        "extra_dp_size",
        "in an unknown way",
        "wraps the optimizer in object",
    ]
    for errors in run_on_ranks(2, _errors_of_strange_layouts):
        assert [word in error for word, error in zip(words, errors, strict=True)] == [True] * 5


def _save(run: Run, stage: int) -> Any:
    with streams_on_cpu():
        model = run.model()
        optimizer = run.make_optimizer(model)
        boosted = boost(run, stage, model, optimizer)
        bind_colossalai(optimizer, boosted)
        steps(run, boosted)
        return colossalai_shards(boosted).gather(optimizer)


def _resume(run: Run, stage: int, saved: Any) -> dict[str, Tensor]:
    with streams_on_cpu():
        model = run.model()
        optimizer = run.make_optimizer(model)
        boosted = boost(run, stage, model, optimizer)
        bind_colossalai(optimizer, boosted)
        shards = colossalai_shards(boosted)
        shards.scatter(optimizer, *saved)
        for ours, theirs in zip(shards.gather(optimizer), saved, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        steps(run, boosted, start=run.steps)
        return shards.gather(optimizer)[0]


def _resume_under_deepspeed(run: Run, saved: Any) -> dict[str, Tensor]:
    model = run.model()
    optimizer = run.make_optimizer(model)
    engine = deepspeed_engine(run, 2, model, optimizer)
    shards = deepspeed_shards(engine)
    shards.bind(optimizer)  # type: ignore[arg-type]
    shards.scatter(optimizer, *saved)
    deepspeed_steps(run, engine, start=run.steps)
    weights, _ = shards.gather(optimizer)
    engine.destroy()
    return weights


@pytest.mark.parametrize("optimizer", ["lars", "lamb"])
def test_states_move_between_stages_world_sizes_and_deepspeed(optimizer):
    run = Run(optimizer, steps=5)
    expected = train_plain(dataclasses.replace(run, steps=10))
    saved = run_on_ranks(2, _save, run, 1)[0]
    assert saved[0].keys() == run.model().state_dict().keys()  # tied weights under both names
    assert (
        difference({name: run_on_ranks(4, _resume, run, 2, saved)[0][name] for name in expected}, expected)
        < LIMIT
    )
    # ColossalAI keeps no state of a parameter that has had no gradient; DeepSpeed a state of zeros. Neither
    # moves it.
    weights = run_on_ranks(2, _resume_under_deepspeed, run, saved)[0]
    assert difference({name: weights[name] for name in expected}, expected) < LIMIT


def _resume_plain(run: Run, saved: Any) -> dict[str, Tensor]:
    model = run.model()
    optimizer = run.make_optimizer(model)
    model.load_state_dict(saved[0])
    for name, parameter in model.named_parameters():
        if name in saved[1]:
            optimizer.state[parameter] = saved[1][name]
    plain_steps(run, model, optimizer, start=run.steps)
    return {name: p.detach() for name, p in model.named_parameters()}


def test_a_parameter_without_gradient_is_not_decayed_by_sgd():
    """As under plain torch, and other than under DeepSpeed's ZeRO, which makes a zero of no gradient."""
    run = Run("sgd", steps=5)
    expected = train_plain(dataclasses.replace(run, steps=10))
    assert difference(_resume_plain(run, run_on_ranks(2, _save, run, 2)[0]), expected) < LIMIT


def _half_precision(run: Run, stage: int) -> tuple[float, set[torch.dtype]]:
    with streams_on_cpu():
        model = run.model()
        optimizer = run.make_optimizer(model)
        boosted = boost(run, stage, model, optimizer, precision="bf16")
        bind_colossalai(optimizer, boosted)
        steps(run, boosted)
        masters, states = colossalai_shards(boosted).gather(optimizer)
    low = {name: p.detach().float() for name, p in model.named_parameters()}
    dtypes = {tensor.dtype for named in states.values() for tensor in named.values()}
    return difference(low, {name: masters[name].bfloat16().float() for name in low}), dtypes


@pytest.mark.parametrize("stage", [1, 2])
def test_half_weights_have_single_precision_masters(stage):
    run = Run(steps=3, dtype=torch.bfloat16)
    assert run_on_ranks(2, _half_precision, run, stage) == [(0.0, {torch.float32})] * 2


def _resumed_by_colossalai(run: Run, stage: int, folder: str) -> dict[str, Tensor]:
    """Half of the run, the booster's own save and load into a bound optimizer, the other half."""
    from colossalai.booster import Booster
    from colossalai.booster.plugin import LowLevelZeroPlugin

    plugin = LowLevelZeroPlugin(stage=stage, precision="fp32", overlap_communication=False)
    booster = Booster(plugin=plugin)
    with streams_on_cpu():
        model = run.model()
        optimizer = run.make_optimizer(model)
        wrapped, zero, *_ = booster.boost(model, optimizer)
        bind_colossalai(optimizer, (wrapped, zero))
        steps(run, (wrapped, zero))
        booster.save_model(wrapped, f"{folder}/model")
        booster.save_optimizer(zero, f"{folder}/optimizer")
        dist.barrier()
        steps(run, (wrapped, zero))
        booster.load_model(wrapped, f"{folder}/model")
        booster.load_optimizer(zero, f"{folder}/optimizer")
        steps(run, (wrapped, zero), start=run.steps)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("optimizer", ["lars", "lamb"])
def test_colossalais_own_checkpoints(tmp_path, stage, optimizer):
    """In one file; to load several calls the accelerator, which ColossalAI does not do on a CPU."""
    run = Run(optimizer, steps=5)
    expected = train_plain(dataclasses.replace(run, steps=10))
    for weights in run_on_ranks(2, _resumed_by_colossalai, run, stage, str(tmp_path)):
        assert difference(weights, expected) < LIMIT
