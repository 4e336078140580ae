"""Short training runs inside the worker pools, and what they left behind."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

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


STEPPED = dict(
    base_lr=0.05,
    base_batch_size=64,
    warmup="3it",
    warmup_start_lr=0.01,
    decay="step",
    milestones=["14it"],
)
"""A schedule whose rate steps are in view of changes of the batch or the image size."""


def stepped_rate(seen: int) -> float:
    """What STEPPED plans after so many examples."""
    return 0.01 + 0.04 * seen / 192 if seen < 192 else 0.05 if seen < 14 * 64 else 0.005


def losses_by_hand(steps: Sequence[tuple[int, int | None]], rate: Callable[[int, int], float]) -> list[float]:
    """Of a loop that trains SMALL without lbtrain's own: the batch size and the pixels a side (None: as they
    are) of each step, and the rate after so many examples at a batch size.
    """
    from lbtrain import Recipe
    from lbtrain.data import dataset_info, open_source
    from lbtrain.data.stream import SampleStream
    from lbtrain.nn import GhostStatistics, convert_to_ghost_batch_norm
    from lbtrain.tasks.classification import build_model

    recipe = Recipe().vary(**SMALL)
    model = convert_to_ghost_batch_norm(build_model(recipe, dataset_info(recipe.data)), 8)
    source, statistics = open_source(recipe.data, train=True, seed=0), GhostStatistics(model)
    weights = [weight for weight in model.parameters() if weight.dim() > 1]
    rest = [weight for weight in model.parameters() if weight.dim() == 1]
    optimizer = torch.optim.SGD(
        [dict(params=weights, weight_decay=1e-4), dict(params=rest)], lr=1, momentum=0.9
    )
    seen, losses = 0, []
    for batch_size, pixels in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate(seen, batch_size)
        images, labels = source.fetch(SampleStream(1440, 0).block(seen, batch_size))
        if pixels:
            images = F.interpolate(images, (pixels, pixels), mode="bilinear", antialias=True)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        statistics.start()
        statistics.finish()
        losses.append(loss.item())
        seen += batch_size
    return losses


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


def check_goes_on_bit_identical(
    straight: Outcome, run_dir: Path, *, after: int = 10, world_size: int = 1, **changes: Any
) -> None:
    """A copy of `straight` in `run_dir` that lost its checkpoints after that step goes on, on so many ranks
    and with the same `changes`, to the same losses and weights.
    """
    shutil.copytree(straight.run_dir, run_dir)
    lost = [path for path in (run_dir / "checkpoints").glob("step_*.pt") if int(path.stem[5:]) > after]
    assert lost
    for path in lost:
        path.unlink()
    (run_dir / "summary.json").unlink()
    again = train_on(world_size, run_dir, **changes)
    assert again.losses == straight.losses
    ours = again.checkpoint()["state_dict"]
    for name, tensor in straight.checkpoint()["state_dict"].items():
        assert torch.equal(ours[name], tensor), name


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
