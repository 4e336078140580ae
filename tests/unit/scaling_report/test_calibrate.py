"""Network and overlap from step times: what a known network made of them is found again, or said to be
undetermined.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tools.scaling_report.__main__ import main
from tools.scaling_report.model.calibrate import exchange_bounds, link_from_steps, unhidden_share, usable
from tools.scaling_report.model.comm import Buckets, Cost
from tools.scaling_report.model.presets import NETWORKS, NODE_LINKS, Link
from tools.scaling_report.model.topology import Topology
from tools.scaling_report.report import Collective, OwnTimes, Report, Row, load

BUCKETS = Buckets((1e6, 25e6, 24e6), (0.4, 0.7, 1.0))
CLUSTER = Topology(1, NODE_LINKS["nvlink2"], NETWORKS["eth-1"])
TRUE = Cost(np.array([2e-3]), np.array([1 / 120e6]))


def _row(gpus: int, *, unhidden: float = 0.08, passes: int = 1) -> Row:
    row = Row(
        gpus=gpus,
        nodes=gpus,
        per_gpu_batch=8,
        accumulation=passes,
        precision="fp32",
        compute_s=0.5 * passes,
        optimizer_s=0.01,
        images_per_s=1.0,
    )
    at_least, total = exchange_bounds(row, BUCKETS, CLUSTER, between=TRUE) if gpus > 1 else (0.0, 0.0)
    exposed = at_least + unhidden * (total - at_least)
    step = 0.51 * passes + exposed
    return dataclasses.replace(
        row, step_p50_s=step, exposed_communication_s=exposed, images_per_s=8 * passes * gpus / step
    )


def test_a_network_is_found_from_the_steps_that_it_made() -> None:
    link = link_from_steps([_row(gpus) for gpus in (1, 2, 4, 16, 64)], BUCKETS, CLUSTER)
    assert link.bandwidth.value == pytest.approx(120e6, rel=0.02)
    assert link.latency_s.value == pytest.approx(2e-3, rel=0.02)
    assert link.bandwidth.determined
    assert link.latency_s.determined


def test_one_point_does_not_determine_latency() -> None:
    link = link_from_steps([_row(2)], BUCKETS, CLUSTER)
    assert not link.latency_s.determined
    assert link.bandwidth.determined


def test_the_exposed_share_is_found_from_the_steps_that_it_made() -> None:
    rows = [_row(gpus, unhidden=0.3, passes=passes) for gpus, passes in ((2, 1), (4, 1), (4, 2))]
    share = unhidden_share(rows, BUCKETS, CLUSTER, Link(120e6, 2e-3, "true"))
    assert share is not None
    assert share.median == pytest.approx(0.3, rel=0.01)
    assert share.low <= 0.1501
    assert share.high >= 0.5999
    assert unhidden_share(rows[:0], BUCKETS, CLUSTER, Link(120e6, 2e-3, "true")) is None


def test_sharded_and_failed_points_tell_nothing_about_the_ring() -> None:
    assert (
        usable(
            [
                dataclasses.replace(_row(2), zero_stage=1),
                dataclasses.replace(_row(2), status="timed out"),
                _row(1),
            ]
        )
        == []
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rows = [_row(gpus, unhidden=0.2) for gpus in (1, 2, 4)]
    sweep = [
        Collective(gpus=2, nodes=2, num_bytes=size, seconds=4e-3 + size / 120e6)
        for size in (1000, 10**6, 10**8)
    ]
    steps = list(np.random.default_rng(0).normal(0.5, 0.005, 40))
    times = [OwnTimes(gpus=2, rank=rank, host=f"n{rank}", own_s=steps) for rank in (0, 1)]
    provenance = {"buckets": dataclasses.asdict(BUCKETS), "device": "NVIDIA A100-SXM4-80GB"}
    Report(rows=rows, collectives=sweep, own_times=times, provenance=provenance).save(tmp_path / "r.json")
    return tmp_path / "r.json"


def test_a_prediction_from_a_run_uses_all_that_was_measured(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["predict", "--run", str(study), "--gpus", "1,2,4", "--out", str(study.with_name("p.json"))])
        == 0
    )
    assert "from 15.7 images/s on 1 GPUs" in capsys.readouterr().out
    predicted, rows = load(study.with_name("p.json")).predictions, load(study).rows
    assert rows[0].images_per_s
    for each, row in zip(predicted, rows, strict=True):
        assert row.images_per_s
        assert each.efficiency == pytest.approx(row.images_per_s / row.gpus / rows[0].images_per_s, abs=0.03)


def test_without_a_sweep_the_steps_are_the_network(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = load(study)
    report.collectives = []
    report.save(study)
    assert main(["predict", "--run", str(study), "--gpus", "4"]) == 0
    report.rows = report.rows[:1]
    report.save(study)
    assert main(["predict", "--run", str(study), "--gpus", "4"]) == 2
    assert "--collectives" in capsys.readouterr().err
    assert main(["predict", "--run", str(study), "--gpus", "4", "--network", "eth-1"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--micro-batch", "256"], "was measured with --micro-batch 8: leave it out"),
        (["--dtype", "bf16"], "was measured with --dtype fp32"),
        (["--gpu", "h100"], "was measured with --gpu a100"),
        (["--model", "resnet50"], "has measured its gradients: leave out --model"),
        (["--micro-batch", "8", "--dtype", "fp32", "--gpu", "a100"], ""),
    ],
)
def test_a_flag_that_contradicts_the_run_is_rejected(
    words: list[str], said: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["fit", str(study)], ["predict", "--gpus", "4", "--run", str(study)]):
        assert main([*command, *words]) == (2 if said else 0)
        assert said in capsys.readouterr().err


def test_another_model_than_was_trained_is_rejected(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = load(study)
    report.provenance = {"model": "resnet50"}
    report.save(study)
    words = ["predict", "--gpus", "4", "--run", str(study), "--model"]
    assert [main([*words, model]) for model in ("ResNet-50", "vgg16")] == [0, 2]
    assert "says that resnet50 was trained, not vgg16" in capsys.readouterr().err


def test_ports_are_of_a_network_that_is_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["fit", str(study)], ["predict", "--gpus", "4", "--run", str(study)]):
        assert main([*command, "--links", "8"]) == 2
        assert "through all ports of a node: leave out --links" in capsys.readouterr().err
        assert main([*command, "--links", "8", "--network", "eth-1"]) == 0


def test_fit_says_all_of_it(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(study)]) == 0
    out = capsys.readouterr().out
    assert "between nodes, by all-reduce: bandwidth 120 MB/s" in out
    assert "between nodes, by step times: 2 points of 2, 4 GPUs" in out
    assert "overlap: 20% of the exchange" in out
    assert "slowest of 256 ranks" in out


def test_a_gpu_that_was_measured_on_is_known_by_its_name(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--run", str(study), "--gpus", "1", "--what-if", "dtype=bf16", "--json"]) == 0
    assert '"gpu": "a100"' in capsys.readouterr().out
