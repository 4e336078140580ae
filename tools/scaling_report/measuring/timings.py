"""From the step times that every rank wrote to a row of the report."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..report import OwnTimes, ReportError, Row, block_means, rate_columns


@dataclass(frozen=True)
class RankTimes:
    rank: int
    host: str
    steps: list[dict[str, float]]
    buckets: dict[str, Any] | None

    def median(self, name: str) -> float:
        return statistics.median(step[name] for step in self.steps)


def read_ranks(folder: Path, ranks: int, *, warmup: int) -> list[RankTimes]:
    """Times of all `ranks`, without the first `warmup` steps. Raises ReportError if a rank wrote none."""
    found = []
    for rank in range(ranks):
        try:
            values = json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ReportError(
                f"rank {rank} wrote no times to {folder}; that folder must be shared by all hosts"
            ) from None
        found.append(RankTimes(rank, values["host"], values["steps"][warmup:], values["buckets"]))
    return found


def step_seconds(ranks: Sequence[RankTimes]) -> list[float]:
    """Each step's time: that of its slowest rank."""
    return [
        max(step["step_s"] for step in steps) for steps in zip(*(each.steps for each in ranks), strict=True)
    ]


def summarize(row: Row, repeats: Sequence[Sequence[RankTimes]], alone: Sequence[RankTimes]) -> Row:
    """`row` with what was measured: `repeats` of the real run, and `alone`, a run without gradient
    exchange.
    """
    assert row.global_batch
    times = [step_seconds(ranks) for ranks in repeats]
    every = sorted(second for repeat in times for second in repeat)
    rate = row.global_batch / statistics.fmean(every)
    step, alone_s = statistics.median(every), statistics.median(step_seconds(alone))
    medians = [each.median("own_s") for each in alone]
    slowest = max(alone, key=lambda each: each.median("own_s"))
    own = [entry["own_s"] for each in alone for entry in each.steps]
    middle = statistics.median(own)
    # The run alone is not sharded; under ZeRO each rank updates its part.
    whole = max(each.median("optimizer_s") for each in alone)
    optimizer = whole / (row.gpus if row.zero_stage else 1)
    return replace(
        row,
        **rate_columns(rate, _independent(times), row.gpus),
        step_p50_s=step, step_p95_s=every[int(0.95 * (len(every) - 1))],
        compute_s=max(medians),
        exposed_communication_s=max(0.0, step - (alone_s - whole + optimizer)) if row.gpus > 1 else 0.0,
        loader_wait_s=max(each.median("wait_s") for each in repeats[0]),
        optimizer_s=optimizer,
        slowest_rank=slowest.rank, slowest_host=slowest.host,
        rank_spread=(max(medians) - min(medians)) / middle,
        straggler_wait_s=_straggler_wait(alone), jitter=statistics.pstdev(own) / middle,
    )  # fmt: skip


def own_times(alone: Sequence[RankTimes]) -> list[OwnTimes]:
    return [
        OwnTimes(
            gpus=len(alone), rank=each.rank, host=each.host, own_s=[step["own_s"] for step in each.steps]
        )
        for each in alone
    ]


def _straggler_wait(alone: Sequence[RankTimes]) -> float:
    """Seconds a step that an average rank waits for the slowest of that step. Which rank that is may change
    from step to step.
    """
    steps = [[step["own_s"] for step in ranks] for ranks in zip(*(each.steps for each in alone), strict=True)]
    return statistics.fmean(max(own) - statistics.fmean(own) for own in steps)


def _independent(times: Sequence[Sequence[float]]) -> list[float]:
    """Mean step times that may be taken as independent: of repeats where there are three, else of ten blocks
    of each run.
    """
    if len(times) >= 3:
        return [statistics.fmean(repeat) for repeat in times]
    return [mean for repeat in times for mean in block_means(repeat)]
