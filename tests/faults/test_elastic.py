"""A run goes on from a checkpoint of any number of ranks, engine and ZeRO stage on any other, as if nothing
had changed.
"""

from pathlib import Path

import pytest

from tests.distributed.runs import relative_difference, train_on
from tests.distributed.test_equality import _stop_after_ten_steps

ENGINES = {
    "ddp": dict(engine="ddp"),
    "accelerate": dict(engine="accelerate"),
    **{f"zero{stage}": dict(engine="deepspeed", deepspeed=dict(zero_stage=stage)) for stage in (0, 1, 2)},
}
DEFAULT = {(4, 1, "zero1")}
CELLS = [
    pytest.param(first, then, engine, marks=() if (first, then, engine) in DEFAULT else pytest.mark.slow)
    for first in (1, 2, 4) for then in (1, 2, 4) for engine in ENGINES if first != then
]  # fmt: skip


@pytest.mark.parametrize(("first", "then", "engine"), CELLS)
def test_going_on_elsewhere_changes_nothing(tmp_path: Path, first: int, then: int, engine: str):
    straight = train_on(first, tmp_path / "straight", **ENGINES[engine])
    resumed = train_on(then, _stop_after_ten_steps(straight, tmp_path / "resumed"), **ENGINES[engine])
    assert len(resumed.losses) == 20
    assert relative_difference(resumed.losses, straight.losses) < 1e-5
