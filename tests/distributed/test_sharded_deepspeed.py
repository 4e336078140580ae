"""LARS and LAMB on DeepSpeed's slices take the step of one process that holds whole layers."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lab.ranks import run_on_ranks
from lbtrain.optim import UnsupportedSharding, bind_deepspeed, deepspeed_shards
from lbtrain.optim.sharding import FlatLayers, FlatTensor, Shard
from tests.distributed.sharded import (
    LIMIT,
    VARIANTS,
    Run,
    assert_same_as_one_process,
    deepspeed_engine,
    deepspeed_steps,
    difference,
    plain_steps,
    train_deepspeed,
    train_plain,
)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("run", VARIANTS, ids=str)
def test_same_weights_as_one_process(stage, run):
    assert_same_as_one_process(run, 2, train_deepspeed, stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("optimizer", ["lars", "lamb"])
def test_every_combination(stage, world_size, accumulation, clip, optimizer):
    assert_same_as_one_process(
        Run(optimizer, accumulation=accumulation, clip=clip), world_size, train_deepspeed, stage
    )


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("optimizer", ["lars", "lamb", "muon"])
def test_four_ranks(stage, optimizer):
    """More ranks than some layers have elements: a rank then holds nothing of them, or padding alone. Or
    than a group has matrices: a rank then orthogonalises none.
    """
    assert_same_as_one_process(Run(optimizer, accumulation=2, clip=0.3), 4, train_deepspeed, stage)


def _train_cut_at_every_place(run: Run) -> list[float]:
    """Cut the flat parameter between two ranks at every place in turn; the differences to whole layers after
    the steps.
    """
    expected = train_plain(run)
    sizes = [p.numel() for group in run.make_optimizer(run.model()).param_groups for p in group["params"]]
    return [_train_cut_at(run, place, expected) for place in range(max(sizes) + 1)]


def _train_cut_at(run: Run, place: int, expected: dict[str, Tensor]) -> float:
    model = run.model()
    optimizer = run.make_optimizer(model)
    names = {id(p): name for name, p in model.named_parameters()}
    layers = [[(names[id(p)], p) for p in group["params"]] for group in optimizer.param_groups]
    flats = [_cut(parameters, place, dist.get_rank()) for parameters in layers]
    for group, flat in zip(optimizer.param_groups, flats, strict=True):
        group["params"] = [flat.tensor]
    optimizer.layout = FlatLayers(flats)
    for step in range(run.steps):
        run.loss(model, step, 0, 1).backward()
        for group, flat in zip(optimizer.param_groups, flats, strict=True):
            group["lr"] = run.rate(step)
            flat.tensor.grad = torch.zeros_like(flat.tensor)
            for shard in flat.shards:
                if shard.parameter.grad is not None:
                    shard.of(flat.tensor.grad).copy_(shard.of_layer(shard.parameter.grad))
        optimizer.step()
        for flat in flats:
            for shard in flat.shards:
                whole = torch.zeros(shard.parameter.numel())
                shard.of_layer(whole).copy_(shard.of(flat.tensor.detach()))
                dist.all_reduce(whole)
                shard.parameter.data.copy_(whole.view_as(shard.parameter))
                shard.parameter.grad = None
    return difference({name: p.detach() for name, p in model.named_parameters()}, expected)


def _cut(parameters: list, place: int, rank: int) -> FlatTensor:
    """Rank 0 holds the first `place` elements of every layer (and of the whole where it is shorter), rank 1
    the others.
    """
    shards, parts, start = [], [], 0
    for name, parameter in parameters:
        first = min(place, parameter.numel())
        offset, end = (0, first) if rank == 0 else (first, parameter.numel())
        shards.append(Shard(name, parameter, offset, start, end - offset))
        parts.append(parameter.detach().flatten()[offset:end])
        start += end - offset
    return FlatTensor(torch.cat([*parts, torch.zeros(1)]).requires_grad_(), shards, dist.group.WORLD)


@pytest.mark.parametrize("optimizer", ["lars", "lamb"])
def test_layers_cut_at_every_place(optimizer):
    for differences in run_on_ranks(2, _train_cut_at_every_place, Run(optimizer, steps=3, width=5)):
        assert len(differences) == 13 * 5 + 1
        assert max(differences) < LIMIT


def _error(function, *args, **kwargs) -> str:
    try:
        function(*args, **kwargs)
    except UnsupportedSharding as error:
        assert error.exit_code == 2
        return str(error)
    return "no error"


def _errors_of_unbound(stage: int) -> list[str]:
    return [_error(train_deepspeed, Run(name, steps=1), stage, bind=False) for name in ("lars", "lamb")]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_unbound_optimizers_are_rejected(stage):
    for errors in run_on_ranks(2, _errors_of_unbound, stage):
        assert all("call lbtrain.optim.bind_deepspeed" in error for error in errors)


def _errors_of_strange_layouts() -> list[str]:
    run, errors = Run(steps=1), []
    for stage in (1, 3):
        model = run.model()
        optimizer = run.make_optimizer(model)
        engine = deepspeed_engine(run, stage, model, optimizer)
        flat = (
            engine.optimizer.single_partition_of_fp32_groups[0]
            if stage == 1
            else engine.optimizer.fp32_partitioned_groups_flat[0]
        )
        if dist.get_rank() == 1:  # one rank alone sees it, all must raise
            flat.data[3] += 1
        errors.append(_error(bind_deepspeed, optimizer, engine))
        flat.data[3] -= dist.get_rank()
        engine.optimizer.cpu_offload = True
        errors.append(_error(bind_deepspeed, optimizer, engine))
        engine.optimizer.cpu_offload = False
        for group in ("bit16_groups", "fp16_groups"):
            if hasattr(engine.optimizer, group):
                vars(engine.optimizer)[f"_{group}"] = vars(engine.optimizer).pop(group)
        errors.append(_error(bind_deepspeed, optimizer, engine))
        engine.optimizer = object()
        errors.append(_error(bind_deepspeed, optimizer, engine))
    return errors


def test_layouts_that_are_not_understood_are_rejected_on_every_rank():
    words = ["not lay out", "cpu_offload", "in an unknown way", "wraps the optimizer in object"]
    for errors in run_on_ranks(2, _errors_of_strange_layouts):
        assert [word in error for word, error in zip(words * 2, errors, strict=True)] == [True] * 8


def _half_precision(run: Run, stage: int) -> float:
    model = run.model()
    optimizer = run.make_optimizer(model)
    engine = deepspeed_engine(run, stage, model, optimizer, bf16={"enabled": True})
    bind_deepspeed(optimizer, engine)
    deepspeed_steps(run, engine)
    masters, states = deepspeed_shards(engine).gather(optimizer)
    assert all(state.dtype == torch.float32 for named in states.values() for state in named.values())
    low = {name: p.detach().float() for name, p in engine.module.named_parameters()} if stage != 3 else None
    engine.destroy()
    return difference(low, {name: masters[name].bfloat16().float() for name in low}) if low else 0.0


def _error_of_half_weights_at_stage_0() -> str:
    return _error(_half_precision, Run(steps=1, dtype=torch.bfloat16), 0)


def test_half_weights_at_stage_0_are_rejected():
    """There DeepSpeed takes a step with zero gradients while it starts, before anyone can say where the
    layers are.
    """
    for error in run_on_ranks(2, _error_of_half_weights_at_stage_0):
        assert "use torch_autocast, or stage 1" in error


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_half_weights_have_single_precision_masters(stage):
    """bf16 weights are the rounded masters; the masters and momenta are fp32."""
    assert run_on_ranks(2, _half_precision, Run(steps=3, dtype=torch.bfloat16), stage) == [0.0, 0.0]


def _save(run: Run, stage: int):
    model = run.model()
    optimizer = run.make_optimizer(model)
    engine = deepspeed_engine(run, stage, model, optimizer)
    bind_deepspeed(optimizer, engine)
    deepspeed_steps(run, engine)
    saved = deepspeed_shards(engine).gather(optimizer)
    engine.destroy()
    return saved


def _resume(run: Run, stage: int, saved):
    model = run.model()
    optimizer = run.make_optimizer(model)
    engine = deepspeed_engine(run, stage, model, optimizer)
    bind_deepspeed(optimizer, engine)
    deepspeed_shards(engine).scatter(optimizer, *saved)
    again = deepspeed_shards(engine).gather(optimizer)
    for ours, theirs in zip(again, saved, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    deepspeed_steps(run, engine, start=run.steps)
    weights, _ = deepspeed_shards(engine).gather(optimizer)
    engine.destroy()
    return weights


@pytest.mark.parametrize("optimizer", ["lars", "lamb", "sgd"])
def test_checkpoints_move_between_stages_and_world_sizes(optimizer):
    run = Run(optimizer, steps=5)
    expected = train_plain(dataclasses.replace(run, steps=10))
    # torch's SGD decays a parameter whose gradient is zero, but not one without: ZeRO makes the former of the
    # latter.
    if optimizer == "sgd":
        expected = {name: weight for name, weight in expected.items() if not name.startswith("unused")}
    saved = run_on_ranks(2, _save, run, 1)[0]
    for world, stage in [(2, 3), (4, 2), (2, 1)]:
        weights = run_on_ranks(world, _resume, run, stage, saved)[0]
        assert difference({name: weights[name] for name in expected}, expected) < LIMIT
    assert saved[0].keys() == run.model().state_dict().keys()  # tied weights under both names
    weights = _resume_plain(run, run_on_ranks(2, _save, run, 3)[0])
    assert difference({name: weights[name] for name in expected}, expected) < LIMIT


def _resume_plain(run: Run, saved) -> dict[str, Tensor]:
    model = run.model()
    optimizer = run.make_optimizer(model)
    model.load_state_dict(saved[0])
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = saved[1][name]
    plain_steps(run, model, optimizer, start=run.steps)
    return {name: p.detach() for name, p in model.named_parameters()}


def _skip_one_step(optimizer: str, stage: int, dtype: str) -> list[bool]:
    """For three steps, of which the second overflows on one rank alone: whether weights and states moved."""
    run = Run(optimizer)
    model = run.model()
    made = run.make_optimizer(model)
    engine = deepspeed_engine(run, stage, model, made, torch_autocast={"enabled": True, "dtype": dtype})
    bind_deepspeed(made, engine)
    moved, before = [], deepspeed_shards(engine).gather(made)
    for step in range(3):
        for group in engine.optimizer.param_groups:
            group["lr"] = 0.1
        loss = run.loss(engine, step, dist.get_rank(), 2)
        engine.backward(loss * (float("inf") if step == 1 and dist.get_rank() == 1 else 1.0))
        engine.step()
        after = deepspeed_shards(engine).gather(made)
        moved.append(repr(before) != repr(after))
        before = after
    engine.destroy()
    return moved


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("optimizer", ["lars", "lamb"])
def test_a_skipped_step_changes_no_weight_and_no_state(optimizer, stage):
    assert run_on_ranks(2, _skip_one_step, optimizer, stage, "float16") == [[True, False, True]] * 2


class BatchNormRun(Run):
    def model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(13, 33), torch.nn.BatchNorm1d(33), torch.nn.ReLU(), torch.nn.Linear(33, 3)
        )


def _batch_norm_in_bf16(stage: int) -> tuple[dict[str, Tensor], torch.dtype]:
    run = BatchNormRun(steps=5)
    model = run.model()
    optimizer = run.make_optimizer(model)
    engine = deepspeed_engine(
        run, stage, model, optimizer, torch_autocast={"enabled": True, "dtype": "bfloat16"}
    )
    bind_deepspeed(optimizer, engine)
    deepspeed_steps(run, engine)
    state = deepspeed_shards(engine).gather(optimizer)[0] if stage else engine.module.state_dict()
    engine.destroy()
    return {
        name: state[name].detach() for name in ("0.weight", "1.weight", "3.weight", "1.running_var")
    }, state["0.weight"].dtype


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_batch_norm_under_bf16_autocast(stage):
    """Sharding is no difference beyond bf16's rounding of the exchanged gradients; weights and running
    statistics stay fp32.
    """
    (expected, _), (weights, dtype) = (
        run_on_ranks(2, _batch_norm_in_bf16, number)[0] for number in (0, stage)
    )
    assert dtype == torch.float32 and weights["1.running_var"].dtype == torch.float32
    assert difference(weights, expected) < 2e-3


@pytest.mark.slow
def test_a_process_that_no_launcher_started_trains_alone(tmp_path):
    recipe = Path(__file__).parents[2] / "recipes/digits/digits.py"
    words = ["engine=deepspeed", "deepspeed.zero_stage=1", "duration=2it", f"run_dir={tmp_path}"]
    alone = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    }
    ended = subprocess.run(
        [sys.executable, str(recipe), *words],
        env=alone,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
