"""The gradient noise scale that a run measures under ColossalAI is the one under plain torch, at every stage
and precision.
"""

from functools import cache
from pathlib import Path

import pytest

from tests.colossalai.runs import train_sharded_on
from tests.distributed.runs import Outcome, train_on
from tests.distributed.test_noise_over_ranks import CHANGES, rows


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory):
    """Two ranks of plain torch, by precision."""

    @cache
    def train(precision: str) -> Outcome:
        folder: Path = tmp_path_factory.mktemp(precision)
        return train_on(2, folder / "run", **CHANGES, engine="ddp", precision=precision)

    return train


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_noise_is_that_of_plain_torch(plain, tmp_path, stage, precision):
    train = train_sharded_on if stage else train_on
    run = train(
        2,
        tmp_path / "run",
        **CHANGES,
        engine="colossalai",
        colossalai=dict(zero_stage=stage),
        precision=precision,
    )
    assert len(rows(run, "noise")) == 3
    for ours, theirs in zip(rows(run, "noise"), rows(plain(precision), "noise"), strict=True):
        for key in ("small_square", "large_square", "gradient_square", "noise_trace"):
            assert ours[key] == pytest.approx(theirs[key], rel=2e-4), key
    for ours, theirs in zip(rows(run, "layers"), rows(plain(precision), "layers"), strict=True):
        assert ours["gradient_norms"] == pytest.approx(theirs["gradient_norms"], rel=1e-3, abs=1e-6)
