"""Gradients travel in the last backward pass of a window: not in the others, and not first in the step."""

import pytest

from lab.ranks import run_on_ranks
from tests.distributed.exchanges import alike_after_each_pass


@pytest.mark.parametrize("engine", ["ddp", "deepspeed", "accelerate"])
def test_only_the_last_micro_step_exchanges(engine):
    assert run_on_ranks(2, alike_after_each_pass, dict(engine=engine)) == [[False, True]] * 2
