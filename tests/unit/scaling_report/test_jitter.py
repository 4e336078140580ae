"""The slowest of n: against the known maxima of normal draws, against brute force, and honest about what was
not seen.
"""

import numpy as np
import pytest
from scipy.special import ndtri

from tools.scaling_report.model.assumptions import Assumptions
from tools.scaling_report.model.comm import Buckets
from tools.scaling_report.model.jitter import Slowest, StepTimes
from tools.scaling_report.model.prediction import predict
from tools.scaling_report.model.presets import NETWORKS, NODE_LINKS
from tools.scaling_report.model.step import Job, StepModel
from tools.scaling_report.model.topology import Topology

SHARES = (np.arange(4000) + 0.5) / 4000
NORMAL = StepTimes(tuple(1 + 0.01 * ndtri(SHARES)), (1.0, 1.0, 1.0))


def _slowest(times: StepTimes, *, assumed: float = 0.0) -> Slowest:
    return Slowest(times, np.full(2000, assumed), np.random.default_rng(0))


@pytest.mark.parametrize(("number", "mean"), [(1, 0.0), (2, 0.5642), (8, 1.4236), (100, 2.5076)])
def test_of_normal_step_times_it_is_the_expected_maximum(number: int, mean: float) -> None:
    """Against the known means of the largest of n normal draws (Tippett 1925)."""
    assert np.median(_slowest(NORMAL)(number)) == pytest.approx(
        1 + 0.01 * mean, abs=6e-4
    )  # an exponential tail is heavier


def test_of_skewed_step_times_it_is_what_drawing_gives() -> None:
    """One step in twenty takes half as long again, as with a page that must be fetched."""
    values = np.tile([1.0] * 19 + [1.5], 20)
    drawn = np.random.default_rng(1).choice(values, size=(20_000, 4)).max(axis=1).mean()
    assert np.median(_slowest(StepTimes(tuple(sorted(values)), (1.0,)))(4)) == pytest.approx(drawn, rel=0.01)


def test_lasting_differences_and_passing_ones_add_in_square() -> None:
    assumed = np.median(_slowest(StepTimes(NORMAL.relative, (1.0,)), assumed=0.02)(16))
    alone = 1 + 1.766 * 0.01 * 5**0.5  # Tippett: the largest of 16
    assert assumed == pytest.approx(alone, abs=1e-3)


def test_more_ranks_wait_longer_and_few_steps_leave_the_answer_open() -> None:
    many = _slowest(NORMAL)
    few = _slowest(StepTimes(NORMAL.relative[::100], (1.0,)))
    middles = [np.median(many(ranks)) for ranks in (1, 8, 64, 512, 4096)]
    assert middles == sorted(middles)
    widths = [np.diff(np.quantile(each(1024), [0.05, 0.95]))[0] for each in (many, few)]
    assert widths[1] > 2 * widths[0]


def test_a_rank_that_was_measured_twice_is_one_rank() -> None:
    times = StepTimes.of([("a/0", [1.0, 1.1, 0.9]), ("a/0", [1.0, 1.1, 0.9]), ("b/0", [2.0, 2.2, 1.8])])
    assert times.ranks == pytest.approx((2 / 3, 4 / 3))
    assert len(times.relative) == 9
    assert times.relative[0] == pytest.approx(0.9)


def test_measured_ranks_take_the_place_of_the_assumption() -> None:
    """The assumption counts as one rank more: among 63 others it is an eighth of itself."""
    equal = StepTimes(NORMAL.relative, tuple([1.0] * 64))
    one = StepTimes(NORMAL.relative, (1.0,))
    assert np.median(_slowest(equal, assumed=0.08)(64)) == pytest.approx(
        np.median(_slowest(one, assumed=0.01)(64)), abs=1e-4
    )


def test_the_step_model_waits_for_the_slowest_that_was_measured() -> None:
    job = Job(buckets=Buckets((1e6,), (1.0,)), images=32)
    cluster = Topology(8, NODE_LINKS["nvlink2"], NETWORKS["ib-edr-100"], boost_headroom=0.0)
    model = StepModel(job, cluster, assumptions=Assumptions(step_times=NORMAL))
    parts = model.parts(np.full(2000, 0.2), 8)
    assert np.median(parts["stragglers"]) == pytest.approx(0.2 * np.median(model._slowest(8, baseline=False)))
    (baseline,) = predict(model, [8], measured={8: 0.25})
    assert baseline.efficiency == pytest.approx(1, abs=1e-6)
