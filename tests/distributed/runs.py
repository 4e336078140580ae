"""Short training runs inside the worker pools, and what they left behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.ranks import run_on_ranks

SMALL = dict(
    batch_size=64,
    bn_batch_size=8,
    duration="20it",
    model=dict(name="cifar_resnet8"),
    schedule=dict(base_lr=0.05, base_batch_size=64, warmup="5it", warmup_start_lr=0.01, decay="cosine"),
    log_every="1it",
    evaluate_every="10it",
    checkpoint=dict(every="10it"),
)
"""Twenty steps on digits, cheap enough to be run in every combination."""


def run_here(changes: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """One rank's part of a run; importable by the workers."""
    import tests.odd_models  # noqa: F401  registers its models
    from lbtrain import Recipe
    from lbtrain.run import run

    return run(Recipe().vary(**SMALL).vary(**changes, run_dir=run_dir), "small")


def train_on(world_size: int, run_dir: Path, *, timeout: float = 180, **changes: Any) -> "Outcome":
    """A run of SMALL with `changes` on so many ranks, ended after `timeout` seconds."""
    run_on_ranks(world_size, run_here, changes, str(run_dir), timeout=timeout)
    return Outcome(run_dir)


class Outcome:
    """What a run directory holds."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self.rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        self.losses = [row["loss"] for row in self.rows if row["kind"] == "train"]
        self.evaluations = [row for row in self.rows if row["kind"] == "eval"]

    def checkpoint(self) -> dict[str, Any]:
        """The newest one, whole."""
        newest = max((self.run_dir / "checkpoints").glob("step_*.pt"))
        return torch.load(newest, weights_only=True)


def relative_difference(ours: list[float], theirs: list[float]) -> float:
    assert len(ours) == len(theirs) > 0
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def check_goes_on_bit_identical(oracle: Outcome, run_dir: Path, **changes: Any) -> None:
    """A copy of `oracle` in `run_dir` that lost its last checkpoint goes on, with the same `changes`, to the
    same losses and weights.
    """
    shutil.copytree(oracle.run_dir, run_dir)
    (last,) = (run_dir / "checkpoints").glob("step_*20.pt")
    last.unlink()
    (run_dir / "summary.json").unlink()
    again = train_on(1, run_dir, **changes)
    assert again.losses == oracle.losses
    ours, theirs = again.checkpoint()["state_dict"], oracle.checkpoint()["state_dict"]
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def check_same_run(run: Outcome, oracle: Outcome) -> None:
    """All twenty losses, the evaluations and the final weights of `run` are those of `oracle`."""
    assert len(run.losses) == 20
    assert relative_difference(run.losses, oracle.losses) < 1e-5
    errors, expected_errors = (
        [row["train_error"] for row in each.rows if row["kind"] == "train"] for each in (run, oracle)
    )
    assert errors == pytest.approx(expected_errors, rel=1e-5) and min(errors) < 90
    assert [row["top1_error"] for row in run.evaluations] == [row["top1_error"] for row in oracle.evaluations]
    weights, expected = run.checkpoint()["state_dict"], oracle.checkpoint()["state_dict"]
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            weights[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
