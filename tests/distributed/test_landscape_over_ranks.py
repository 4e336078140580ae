"""Every measurement of the landscape is the same on two ranks, each with half of the batches, as on one with
all of them.
"""

import pytest
import torch
import torch.distributed as dist

from lab.ranks import run_on_ranks
from tests.unit.analysis.curvatures import cross_entropy, small_batches, small_net


def average(tensor):
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def measured() -> dict[str, list[float]]:
    from lbtrain.analysis import (
        Objective,
        ascent_sharpness,
        box_sharpness,
        power_iteration,
        spectral_density,
        top_eigenvalues,
        trace,
    )

    mine = small_batches(4)[dist.get_rank() :: dist.get_world_size()]
    objective = Objective(small_net(), cross_entropy, mine, batch_norm="batch", mean=average)
    value, gradient = objective.gradient()
    return {
        "value": [value, objective.value()],
        "gradient": gradient.tolist(),
        "eigenvalues": top_eigenvalues(objective, 3, tolerance=1e-6).values,
        "box": [box_sharpness(objective).value, box_sharpness(objective, directions=5).value],
        "ascent": [ascent_sharpness(objective)],
        "power": [power_iteration(objective, iterations=20, tolerance=0).value],
        "trace": trace(objective, samples=5).samples,
        "nodes": spectral_density(objective, probes=1, steps=5).nodes[0],
    }


def test_two_ranks_equal_one():
    (alone,) = run_on_ranks(1, measured)
    first, second = run_on_ranks(2, measured)
    assert first == second, "ranks must never disagree: the next product would be of different vectors"
    assert len(alone["gradient"]) == sum(p.numel() for p in small_net().parameters())
    for name, values in alone.items():
        assert first[name] == pytest.approx(values, rel=1e-4, abs=1e-6), name
    assert not torch.tensor(alone["eigenvalues"]).isnan().any()


def measured_or_kept(folder: str) -> tuple[list[dict], int]:
    """A measurement asked for twice with a file that rank 0 alone sees; how often this rank measured."""
    from pathlib import Path

    from tools.landscape.cache import cached
    from tools.landscape.runs import DistContext

    context, times = DistContext(dist.get_rank(), dist.get_world_size(), torch.device("cpu")), []

    def measure() -> dict:
        times.append(1)
        return {"value": float(average(torch.ones(1)))}

    own = Path(folder) / f"rank{context.rank}"
    return [cached(own, "piece", {"step": 1}, measure, context) for _ in range(2)], len(times)


def test_what_rank_0_has_kept_nobody_measures_again(tmp_path):
    for answers, times in run_on_ranks(2, measured_or_kept, str(tmp_path)):
        assert answers == [{"value": 1.0}] * 2 and times == 1
    assert not (tmp_path / "rank1").exists()
