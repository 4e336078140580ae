"""LARS and LAMB under accelerate's DDP, and under FSDP2, where every layer is a DTensor of which a rank holds
some rows.
"""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lab.ranks import run_on_ranks
from lbtrain.optim import UnsupportedSharding
from tests.distributed.sharded import LIMIT, Run, difference, train_plain


def _steps(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, clip, start: int = 0
) -> dict[str, Tensor]:
    world, rank = dist.get_world_size(), dist.get_rank()
    for step in range(start, start + run.steps):
        for group in optimizer.param_groups:
            group["lr"] = run.rate(step)
        for window in range(run.accumulation):
            (
                run.loss(model, step, rank * run.accumulation + window, world * run.accumulation)
                / run.accumulation
            ).backward()
        if run.clip:
            clip(model.parameters(), run.clip)
        optimizer.step()
        optimizer.zero_grad()
    whole = {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}
    return {name: (p.full_tensor() if isinstance(p, DTensor) else p).clone() for name, p in whole.items()}


def _train_accelerate_ddp(run: Run) -> dict[str, Tensor]:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
    model = run.model()
    model, optimizer = accelerator.prepare(model, run.make_optimizer(model))
    weights = _steps(run, model, optimizer, accelerator.clip_grad_norm_)
    accelerator.free_memory()
    return weights


def _train_fully_shard(run: Run) -> dict[str, Tensor]:
    model = run.model()
    fully_shard(model.first)
    fully_shard(model)
    return _steps(run, model, run.make_optimizer(model), nn.utils.clip_grad_norm_)


def _train_switched(run: Run) -> dict[str, Tensor]:
    """accelerate shards after the optimizer was made and then hands it the DTensors; on a CPU it cannot be
    asked to, so done by hand.
    """
    model = run.model()
    optimizer = run.make_optimizer(model)
    fully_shard(model)
    sharded = dict(model.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [sharded[name] for name in group["param_names"]]
    return _steps(run, model, optimizer, nn.utils.clip_grad_norm_)


@pytest.mark.parametrize(
    "run", [Run("lars", accumulation=2, clip=0.3), Run("lamb", filters=())], ids=lambda run: run.optimizer
)
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("train", [_train_accelerate_ddp, _train_fully_shard, _train_switched])
def test_same_weights_as_one_process(run, world, train):
    expected = train_plain(run)
    for weights in run_on_ranks(world, train, run):
        assert difference(weights, expected) < LIMIT


def _states_of_dtensors(run: Run) -> list[str]:
    model = run.model()
    fully_shard(model)
    optimizer = run.make_optimizer(model)
    _steps(run, model, optimizer, None)
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    return sorted({type(value).__name__ for state in optimizer.state.values() for value in state.values()})


def test_states_of_dtensors_are_dtensors():
    """So torch.distributed.checkpoint saves and reshards them."""
    assert run_on_ranks(2, _states_of_dtensors, Run("lamb", steps=1)) == [["DTensor", "Tensor"]] * 2


def _error_of_two_axes() -> str:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    weight = nn.Parameter(distribute_tensor(torch.ones(8, 8), mesh, [Shard(0), Shard(1)]))
    weight.grad = distribute_tensor(torch.ones(8, 8), mesh, [Shard(0), Shard(1)])
    optimizer = Run(optimizer="lars").make_optimizer(nn.ParameterDict({"weight": weight}))
    try:
        optimizer.step()
    except UnsupportedSharding as error:
        return str(error)
    return "no error"


def test_two_sharded_axes_are_rejected():
    for error in run_on_ranks(4, _error_of_two_axes):
        assert "Shard along one" in error


def _errors_of_fsdp1() -> list[str]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    errors = []
    for keep in (False, True):
        model = FullyShardedDataParallel(Run().model(), device_id=torch.device("cpu"), use_orig_params=keep)
        try:
            Run().make_optimizer(model)
        except UnsupportedSharding as error:
            errors.append(str(error))
    return errors


def test_fsdp1_is_rejected():
    for errors in run_on_ranks(2, _errors_of_fsdp1):
        assert len(errors) == 2 and all("FSDP2" in error for error in errors)
