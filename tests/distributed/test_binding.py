"""LARS, LAMB and Muon stay bound to an engine's slices whatever is loaded into them; a copy that is not bound
takes no step.
"""

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from lab.ranks import run_on_ranks
from lbtrain.optim import UnsupportedSharding, bind_deepspeed
from lbtrain.optim.sharding import FlatLayers
from tests.distributed.sharded import (
    LIMIT,
    Run,
    deepspeed_engine,
    deepspeed_steps,
    difference,
    plain_steps,
    train_plain,
    whole_weights,
)
from tests.distributed.test_sharded_accelerate import _steps

RUNS = [Run("lars", steps=5), Run("lamb", steps=5), Run("muon", steps=5)]


def _twice_as_long(run: Run) -> dict[str, Tensor]:
    return train_plain(dataclasses.replace(run, steps=2 * run.steps))


def _bound(run: Run, stage: int) -> tuple[Any, torch.optim.Optimizer]:
    model = run.model()
    optimizer = run.make_optimizer(model)
    engine = deepspeed_engine(run, stage, model, optimizer)
    bind_deepspeed(optimizer, engine)
    return engine, optimizer


def _reload(optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def _reload_a_copy(optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def _reload_a_pickle(optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))


def _set_state(optimizer: torch.optim.Optimizer) -> None:
    optimizer.__setstate__({"state": optimizer.state, "param_groups": optimizer.param_groups})


RELOADS = [_reload, _reload_a_copy, _reload_a_pickle, _set_state]


def _train_reloaded(run: Run, stage: int) -> tuple[dict[str, Tensor], list[bool]]:
    engine, optimizer = _bound(run, stage)
    deepspeed_steps(run, engine)
    bound = []
    for reload in RELOADS:
        reload(optimizer)
        bound.append(not stage or isinstance(optimizer.layout, FlatLayers))
    deepspeed_steps(run, engine, start=run.steps)
    weights = whole_weights(engine)
    engine.destroy()
    return weights, bound


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.optimizer)
def test_a_bound_optimizer_that_loads_its_own_state(run, stage):
    expected = _twice_as_long(run)
    for weights, bound in run_on_ranks(2, _train_reloaded, run, stage):
        assert bound == [True] * 4 and difference(weights, expected) < LIMIT


def _error_of_zero_3() -> str:
    engine, optimizer = _bound(Run("lars", steps=1), 3)
    _reload(optimizer)  # before the first step there is nothing to lose
    deepspeed_steps(Run("lars", steps=1), engine)
    try:
        _reload(optimizer)
    except UnsupportedSharding as error:
        return str(error)
    finally:
        engine.destroy()
    return "reloaded"


def test_under_zero_3_the_inner_optimizer_has_no_state_of_its_own():
    for error in run_on_ranks(2, _error_of_zero_3):
        assert "engine.save_checkpoint" in error


def _resume_deepspeed(run: Run, stage: int, folder: str, bind_first: bool) -> dict[str, Tensor]:
    engine, _ = _bound(run, stage)
    deepspeed_steps(run, engine)
    engine.save_checkpoint(folder, tag="five")
    deepspeed_steps(run, engine)  # the binding outlives a save
    engine.load_checkpoint(folder, tag="five")  # in the engine that is bound
    again = _weights_after(run, engine)
    engine.destroy()
    model = run.model()
    optimizer = run.make_optimizer(model)
    other = deepspeed_engine(run, stage, model, optimizer)
    if bind_first:
        bind_deepspeed(optimizer, other)
    other.load_checkpoint(folder, tag="five")
    if not bind_first:
        bind_deepspeed(optimizer, other)
    weights = _weights_after(run, other)
    other.destroy()
    assert difference(again, weights) < LIMIT
    return weights


def _weights_after(run: Run, engine: Any) -> dict[str, Tensor]:
    deepspeed_steps(run, engine, start=run.steps)
    return whole_weights(engine)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.optimizer)
@pytest.mark.parametrize("bind_first", [True, False])
def test_deepspeeds_own_checkpoints(tmp_path, run, stage, bind_first):
    expected = _twice_as_long(run)
    for weights in run_on_ranks(2, _resume_deepspeed, run, stage, str(tmp_path), bind_first):
        assert difference(weights, expected) < LIMIT


def _errors_of_copies(stage: int) -> list[str]:
    """Of optimizers that hold shards and no layer map: what their step says, and whether a weight moved."""
    run = Run("lars", steps=1)
    engine, optimizer = _bound(run, stage)
    deepspeed_steps(run, engine)
    unbound = run.make_optimizer(model := run.model())
    other = deepspeed_engine(run, stage, model, unbound)
    _reload(unbound)
    copies = [
        copy.deepcopy(optimizer),
        copy.copy(optimizer),
        pickle.loads(pickle.dumps(optimizer)),
        unbound,
        copy.deepcopy(unbound),
        copy.deepcopy(copy.deepcopy(optimizer)),
    ]
    errors = [_step_of(each) for each in copies]
    engine.destroy()
    other.destroy()
    return errors


def _step_of(optimizer: torch.optim.Optimizer) -> str:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert parameters or not optimizer.state
    before = [parameter.detach().clone() for parameter in parameters]
    for group in optimizer.param_groups:
        group["lr"] = 0.1
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    try:
        optimizer.step()
    except UnsupportedSharding as error:
        assert all(torch.equal(one, other) for one, other in zip(before, parameters, strict=True))
        return str(error)
    return "stepped"


@pytest.mark.parametrize("stage", [1, 2])
def test_what_holds_shards_without_a_layer_map_takes_no_step(stage):
    for errors in run_on_ranks(2, _errors_of_copies, stage):
        assert len(errors) == 6 and all("bind_deepspeed" in error for error in errors), errors


@pytest.mark.parametrize("name", ["lars", "lamb"])
@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_of_whole_layers_trains_on(name, way):
    run = Run(name, steps=5)
    model = run.model()
    optimizer = run.make_optimizer(model)
    plain_steps(run, model, optimizer)
    model, optimizer = way((model, optimizer))
    plain_steps(run, model, optimizer, start=5)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    assert difference(weights, _twice_as_long(run)) == 0


def _sharded(run: Run) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = run.model()
    fully_shard(model.first)
    fully_shard(model)
    return model, run.make_optimizer(model)


def _fsdp2_reloaded(run: Run, way: str) -> dict[str, Tensor]:
    from torch.distributed.checkpoint import state_dict as names

    model, optimizer = _sharded(run)
    _steps(run, model, optimizer, None)
    if way == "named":  # as torch.distributed.checkpoint and accelerate's FSDP2 save and load
        saved = names.get_state_dict(model, optimizer)
        model, optimizer = _sharded(run)
        names.set_state_dict(model, optimizer, model_state_dict=saved[0], optim_state_dict=saved[1])
    elif way == "full":
        options = names.StateDictOptions(full_state_dict=True, cpu_offload=True)
        saved = names.get_state_dict(model, optimizer, options=options)
        states: list[Any] = [saved]
        dist.broadcast_object_list(states)
        model, optimizer = _sharded(run)
        names.set_state_dict(
            model, optimizer, model_state_dict=states[0][0], optim_state_dict=states[0][1], options=options
        )
    else:
        for reload in (_reload, _reload_a_copy, _set_state):  # DTensors cannot be pickled
            reload(optimizer)
    return _steps(run, model, optimizer, None, start=run.steps)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.optimizer)
@pytest.mark.parametrize("way", ["reload", "named", "full"])
def test_fsdp2(run, way):
    expected = _twice_as_long(run)
    for weights in run_on_ranks(2, _fsdp2_reloaded, run, way):
        assert difference(weights, expected) < LIMIT


def _accelerate_reloaded(run: Run, folder: str) -> dict[str, Tensor]:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    kwargs = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[kwargs])
    model = run.model()
    model, optimizer = accelerator.prepare(model, run.make_optimizer(model))
    _steps(run, model, optimizer, None)
    accelerator.save_state(folder)
    _steps(run, model, optimizer, None)
    accelerator.load_state(folder)
    weights = _steps(run, model, optimizer, None, start=run.steps)
    accelerator.free_memory()
    return weights


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.optimizer)
def test_accelerates_own_checkpoints(tmp_path, run):
    expected = _twice_as_long(run)
    for weights in run_on_ranks(2, _accelerate_reloaded, run, str(tmp_path)):
        assert difference(weights, expected) < LIMIT
