"""Where every rank holds all layers, Muon deals the matrices to the ranks: each is worked on once."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lab.ranks import run_on_ranks
from lbtrain.optim import Muon, muon
from tests.distributed.sharded import Run, plain_steps

RUN = Run("muon", steps=5)


def trained(share: bool) -> tuple[dict[str, Tensor], int]:
    """The weights, and how many matrices this rank has worked on."""
    calls, original = 0, muon.newton_schulz

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        return original(*args, **kwargs)

    model = RUN.model()
    optimizer = RUN.make_optimizer(model)
    assert isinstance(optimizer, Muon)
    if share:
        optimizer.process_group = dist.group.WORLD
    muon.newton_schulz = counted
    try:
        plain_steps(RUN, model, optimizer)
    finally:
        muon.newton_schulz = original
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}, calls


@pytest.mark.parametrize("world_size", [2, 4])
def test_each_matrix_is_worked_on_once(world_size):
    alone, calls = trained(share=False)
    shared = run_on_ranks(world_size, trained, True)
    assert calls == sum(count for _, count in shared) > 0
    assert max(count for _, count in shared) < calls
    for weights, _ in shared:
        for name, weight in alone.items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-5, atol=1e-6)
