"""Gradients travel in the last backward pass of a window: not in the others, and not first in the step.
And an engine starts only where it finds the weights, which its checkpoints take from there.
"""

import pytest

from lab.ranks import run_on_ranks
from tests.distributed.exchanges import alike_after_each_pass, error_of_an_engine


@pytest.mark.parametrize("engine", ["ddp", "deepspeed", "accelerate"])
def test_only_the_last_micro_step_exchanges(engine):
    assert run_on_ranks(2, alike_after_each_pass, dict(engine=engine)) == [[False, True]] * 2


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_an_engine_that_lays_weights_out_otherwise_than_it_says_does_not_start(optimizer, stage):
    for error in run_on_ranks(2, error_of_an_engine, dict(round_robin_gradients=True), optimizer, stage):
        assert "does not lay out" in error and "Train with zero_stage 0" in error


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("optimizer", ["lars", "muon"])
def test_layers_that_are_offloaded_are_rejected_at_the_start(optimizer, stage):
    zero = dict(offload_optimizer=dict(device="cpu"))
    for error in run_on_ranks(2, error_of_an_engine, zero, optimizer, stage):
        assert "LARS, LAMB and Muon do not support" in error and "offload" in error
