"""What a save copies where an engine shards: every weight once."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lbtrain.engines import deepspeed
from lbtrain.optim.sharding import FlatTensor, Shard, Shards


class CopiedElements(TorchDispatchMode):
    """Counts the elements of whole copies, beside those that are put together from slices."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outcome = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default):
            self.count += outcome.numel()
        return outcome


def sharded() -> Shards:
    """A layer, batch norm, a frozen layer, and a layer tied to the first, on one rank."""
    model = nn.Sequential(
        OrderedDict(
            first=nn.Linear(8, 8), norm=nn.BatchNorm1d(8), frozen=nn.Linear(8, 8), tied=nn.Linear(8, 8)
        )
    )
    model.tied.weight = model.first.weight
    model.frozen.requires_grad_(False)
    shards, start = [], 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shards.append(Shard(name, parameter, 0, start, parameter.numel()))
            start += parameter.numel()
    flat = torch.cat([shard.parameter.detach().reshape(-1) for shard in shards]).requires_grad_()
    return Shards("none", model, [FlatTensor(flat, shards, None)])


def check(saved: dict[str, Tensor], model: nn.Module) -> None:
    """Copies of all that the model holds, in its order: a thread writes them while the next step runs."""
    state = model.state_dict()
    assert list(saved) == list(state)
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
        assert tensor.data_ptr() != state[name].data_ptr(), name


def elements_in_no_shard(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*model.buffers(), *model.frozen.parameters()))


def test_only_what_no_shard_holds_is_cloned():
    shards = sharded()
    with CopiedElements() as copied:
        saved, _ = shards.gather(torch.optim.SGD([shards.flats[0].tensor], lr=0.1))
    check(saved, shards.module)
    assert copied.count == elements_in_no_shard(shards.module)


@pytest.mark.parametrize("stage", [0, 1])
def test_deepspeed_copies_what_was_gathered_no_second_time(stage, monkeypatch):
    shards = sharded()
    inner = torch.optim.SGD([shards.flats[0].tensor] if stage else shards.module.parameters(), lr=0.1)
    monkeypatch.setattr(deepspeed.optim, "deepspeed_shards", lambda engine: shards)
    engine = SimpleNamespace(
        stage=stage, rank=0, engine=None, inner=inner, module=shards.module,
        _forget_gradients=lambda: None, _loss_scale_state=dict,
    )  # fmt: skip
    with CopiedElements() as copied:
        saved = deepspeed.DeepSpeedEngine.save(engine)["model"]
    check(saved, shards.module)
    whole = sum(tensor.numel() for tensor in saved.values())
    assert copied.count == (elements_in_no_shard(shards.module) if stage else whole)
