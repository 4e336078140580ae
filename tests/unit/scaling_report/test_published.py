"""Published efficiencies are predicted as well as docs/scaling.md says."""

import dataclasses

import pytest

from bench import hosts_prediction, scaling_prediction
from bench.published_flags import question_for
from bench.rows import read
from bench.scaling_prediction import (
    AIM_COVERAGE,
    FACTORS,
    PUBLISHED,
    Case,
    cases_of,
    choices,
    compare,
    read_tables,
)
from bench.skill import Line, by_kind, constant_error, coverage, mean_error, skill, width
from tools.kit.publish import ROOT, with_block
from tools.scaling_report.model.assumptions import Assumptions
from tools.scaling_report.model.presets import NETWORKS, named
from tools.scaling_report.publish import block
from tools.scaling_report.report import load


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    cases, left_out = cases_of(read_tables())
    assert len(cases) >= 92
    assert left_out == []
    return cases


@pytest.fixture(scope="module")
def lines(cases: list[Case]) -> list[Line]:
    return compare(cases)


def test_predictions_have_skill_and_honest_intervals(lines: list[Line]) -> None:
    assert skill(lines) <= 0.6
    assert width(lines) <= 15
    for kind, own in by_kind(lines).items():
        if len(own) >= 10:
            assert AIM_COVERAGE[0] <= coverage(own) <= AIM_COVERAGE[1], kind


def test_the_rows_in_the_repository_are_what_is_predicted_now(lines: list[Line]) -> None:
    written = [Line.read(row) for row in read("scaling_prediction")]
    assert len(written) == len(lines)
    for row, line in zip(written, lines, strict=True):
        assert row.kinds == line.kinds
        assert row.predicted == pytest.approx(line.predicted, abs=2e-4), "python -m bench.scaling_prediction"
        assert row.low == pytest.approx(line.low, abs=2e-4)


def test_a_row_of_another_batch_is_asked_as_one(cases: list[Case]) -> None:
    """MLPerf's 64 GPUs pass 51 images each; what was measured on 8 passed 408."""
    row = next(each for each in cases if each.source == "mlperf_v1.1" and each.row["gpus"] == "64")
    assert (row.baseline.job.images, row.what_if.micro_batch) == (408, 51)
    assert row.baseline.job.gradient_bytes == 2


@pytest.mark.parametrize(
    ("gpu_type", "interconnect", "gpu", "network", "links"),
    [
        ("GeForce RTX 2080 Ti", "10 Gbit/s Ethernet", "rtx2080ti", "eth-10", 1),
        ("A100-PCIE-40GB", "InfiniBand HDR100", "a100-pcie", "ib-hdr-100", 1),
        ("H100-SXM5-80GB", "8x ConnectX-7 IB NDR 400 Gb/s per node", "h100", "ib-ndr-400", 8),
        ("MI250X", "Slingshot 200 Gbit/s x4", "mi250x", "slingshot-200", 4),
        ("H100 80GB", "32x 100 Gbit/s EFA", "h100", "efa-100", 32),
        ("B200", "8 x 800 Gb/s InfiniBand XDR", "b200", "ib-xdr-800", 8),
        ("P100", "100 Gbit/s Omni-Path", "p100", "omnipath-100", 1),
    ],
)
def test_the_words_of_a_row_are_flags_whatever_the_hardware(
    gpu_type: str, interconnect: str, gpu: str, network: str, links: int
) -> None:
    row = next(row for row in read_tables() if row["baseline_images_per_sec"])
    asked, _ = question_for(row | {"gpu_type": gpu_type, "interconnect": interconnect, "note": ""}, [])
    assert (asked.gpu, named(asked.network, NETWORKS), asked.links) == (gpu, network, links)


def test_the_tables_of_the_page_are_what_the_rows_say() -> None:
    page = (ROOT / "docs/scaling.md").read_text()
    for name, bench, table in (
        ("published_rows", scaling_prediction, "scaling_prediction"),
        ("hosts", hosts_prediction, "hosts_prediction"),
    ):
        assert with_block(page, name, bench.block(read(table))) == page, (
            f"docs/scaling.md is stale: python -m bench.{table}"
        )


def test_the_demo_of_the_page_is_what_its_result_says() -> None:
    result, page = ROOT / "results/scaling_demo.json", (ROOT / "docs/scaling.md").read_text()
    assert with_block(page, "scaling_demo", block(load(result), "scaling_demo")) == page
    assert (ROOT / "docs/scaling_demo.png").read_bytes().startswith(b"\x89PNG")


def test_blind_choices_include_those_that_stand() -> None:
    tried = list(choices())
    assert tried.count(Assumptions()) == len(PUBLISHED)
    assert len(tried) == len(PUBLISHED) * len(FACTORS)


def test_scores_by_hand() -> None:
    """Two publications: the constant of each is the other's only value, 0.9 and 0.8: 10 points off both."""
    usual = Line("a", True, ("one node",), 0.8, 0.85, 0.7, 0.82)
    lines = [
        usual,
        Line("b", True, ("one node",), 0.9, 0.9, 0.85, 0.95),
        dataclasses.replace(usual, large=False),
    ]
    assert mean_error(lines[:2]) == pytest.approx(2.5)
    assert constant_error(lines[:2]) == pytest.approx(10)
    assert skill(lines) == pytest.approx(0.25)
    assert coverage(lines[:2]) == 1
    assert width(lines[:2]) == pytest.approx(11)
    assert not dataclasses.replace(usual, high=0.79).inside
