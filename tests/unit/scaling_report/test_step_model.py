"""The step model reproduces what it was calibrated on, moves the way hardware does, and its parts sum to the
step.
"""

import numpy as np
import pytest

from tools.scaling_report.model.assumptions import Assumptions, Spread
from tools.scaling_report.model.comm import Buckets
from tools.scaling_report.model.prediction import predict
from tools.scaling_report.model.presets import NETWORKS, NODE_LINKS
from tools.scaling_report.model.step import Job, StepModel
from tools.scaling_report.model.topology import Topology

JOB = Job(buckets=Buckets((1e6, 25e6, 25e6, 25e6, 24e6), (0.4, 0.5, 0.6, 0.8, 1.0)), images=32)
CLUSTER = Topology(8, NODE_LINKS["nvlink1"], NETWORKS["eth-50"])
RDMA = Topology(8, NODE_LINKS["nvlink1"], NETWORKS["roce-50"])
STEP = {"measured": {8: 0.232}}


def _efficiency(gpus: int, *, job: Job = JOB, topology: Topology = CLUSTER, **options) -> float:
    return predict(StepModel(job, topology, **options), [gpus], **STEP)[0].efficiency


def test_the_calibrating_size_is_reproduced_exactly() -> None:
    (baseline,) = predict(StepModel(JOB, CLUSTER), [8], **STEP)
    assert baseline.efficiency == pytest.approx(1, abs=1e-6)
    assert baseline.efficiency_high - baseline.efficiency_low < 1e-6
    assert baseline.images_per_s == pytest.approx(8 * 32 / 0.232)


def test_shares_sum_to_one_and_the_interval_holds_the_prediction() -> None:
    for each in predict(StepModel(JOB, CLUSTER), [8, 16, 64, 256, 4096], **STEP):
        assert sum(each.shares.values()) == pytest.approx(1)
        assert each.efficiency_low <= each.efficiency <= each.efficiency_high


def test_the_same_question_has_the_same_answer() -> None:
    assert predict(StepModel(JOB, CLUSTER), [256], **STEP) == predict(StepModel(JOB, CLUSTER), [256], **STEP)


def test_more_bandwidth_helps_and_more_gpus_do_not() -> None:
    sizes = [_efficiency(gpus) for gpus in (8, 16, 64, 256, 1024)]
    assert sizes == sorted(sizes, reverse=True)
    assert (
        _efficiency(256, topology=RDMA.with_bandwidth(10))
        > _efficiency(256, topology=RDMA)
        > _efficiency(256, topology=RDMA.with_bandwidth(0.1))
    )


def test_without_overlap_the_whole_exchange_is_exposed() -> None:
    unhidden = Job(buckets=JOB.buckets, images=32, overlaps=False)
    parts = StepModel(unhidden, CLUSTER).parts(np.full(2000, 0.2), 256)
    model = StepModel(JOB, CLUSTER)
    assert np.all(parts["overlap"] == 0)
    assert np.all(parts["communication"] >= model.parts(np.full(2000, 0.2), 256)["communication"])


def test_a_loader_that_is_too_slow_sets_the_pace() -> None:
    slow = Job(buckets=JOB.buckets, images=32, loader_images_per_s=Spread(500, 499, 501))
    model = StepModel(slow, RDMA)
    parts = model.parts(np.full(2000, 0.2), 256)
    assert np.sum(list(parts.values()), axis=0) == pytest.approx(np.full(2000, 8 * 32 / 500), rel=0.01)


def test_zero_1_fetches_weights_in_the_open_and_divides_the_update() -> None:
    sharded = Job(buckets=JOB.buckets, images=32, zero_stage=1, optimizer_s=0.01)
    plain = Job(buckets=JOB.buckets, images=32, optimizer_s=0.01)
    compute = np.full(2000, 0.2)
    ours, theirs = (
        StepModel(sharded, CLUSTER).parts(compute, 256),
        StepModel(plain, CLUSTER).parts(compute, 256),
    )
    assert np.all(ours["optimizer"] == 0.01 / 256)
    assert np.median(ours["communication"]) > np.median(theirs["communication"])


def test_spreads_have_the_stated_quantiles() -> None:
    drawn = Spread(0.02, 0.01, 0.05).draw(np.random.default_rng(0), 2000)
    assert np.quantile(drawn, [0.05, 0.5, 0.95]) == pytest.approx([0.01, 0.02, 0.05], rel=0.08)


def test_certainty_narrows_the_interval() -> None:
    known = {
        name: Spread(each.median, each.median * 0.999, each.median * 1.001)
        for name, each in _spreads().items()
    }
    certain = predict(
        StepModel(JOB, CLUSTER, assumptions=Assumptions(**known, measurement=1e-6)), [256], **STEP
    )[0]
    vague = predict(StepModel(JOB, CLUSTER), [256], **STEP)[0]
    assert (
        certain.efficiency_high - certain.efficiency_low < (vague.efficiency_high - vague.efficiency_low) / 2
    )


def _spreads() -> dict[str, Spread]:
    assumptions = Assumptions()
    values = {name: getattr(assumptions, name) for name in Assumptions.__dataclass_fields__}
    return {name: value for name, value in values.items() if isinstance(value, Spread)}
