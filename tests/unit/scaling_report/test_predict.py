"""`predict` and `what-if`: flags in, JSON out; what cannot be answered is refused in one line with exit code
2.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tools.scaling_report.__main__ import main
from tools.scaling_report.model.comm import fill_buckets
from tools.scaling_report.model.layers import counted_layers
from tools.scaling_report.report import load
from tools.scaling_report.stopwatch import GradientStamps, HostClock

BUYER = [
    "predict",
    "--model",
    "resnet50",
    "--images-per-sec",
    "380",
    "--measured-on",
    "8",
    "--micro-batch",
    "128",
]
BUYER += ["--gpus-per-node", "8", "--network", "ib-edr-100", "--links", "1"]


def _efficiency(capsys: pytest.CaptureFixture[str], *words: str) -> list[float]:
    assert main([*BUYER, "--gpus", "8,256", "--dtype", "fp16", "--json", *words]) == 0
    return [each["efficiency"] for each in json.loads(capsys.readouterr().out)["predictions"]]


def test_a_buyers_question_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    baseline, large = _efficiency(capsys)
    assert baseline == pytest.approx(1, abs=1e-6)
    assert 0.9 < large < 1


def test_the_table_names_what_the_throughput_was_taken_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BUYER, "--gpus", "8,256"]) == 0
    assert "380 images/s on 8 GPUs (47.5 a GPU)" in capsys.readouterr().out


def test_what_if_moves_the_answer_the_way_hardware_does(capsys: pytest.CaptureFixture[str]) -> None:
    slow = ["--network", "eth-10", "--images-per-sec", "3040"]
    plain = _efficiency(capsys, *slow)[1]
    assert _efficiency(capsys, *slow, "--what-if", "bandwidth=2x")[1] > plain
    assert _efficiency(capsys, *slow, "--what-if", "accumulation=4")[1] > plain
    assert _efficiency(capsys, *slow, "--what-if", "micro_batch=16")[1] < plain
    assert _efficiency(capsys, *slow, "--what-if", "dtype=fp32")[1] < plain
    one, two, three = (_efficiency(capsys, *slow, "--what-if", f"zero={stage}")[1] for stage in (1, 2, 3))
    assert one == two < plain
    assert three < plain
    open_ = [
        _efficiency(capsys, *slow, "--no-overlap", "--what-if", f"zero={stage}")[1] for stage in (0, 1, 3)
    ]
    assert open_[0] == pytest.approx(open_[1])  # a reduce-scatter and a fetch are one all-reduce
    assert open_[2] < open_[1]
    twice = [_efficiency(capsys, *slow, "--what-if", f"zero={stage},accumulation=2")[1] for stage in (1, 2)]
    assert twice[1] < twice[0]  # stage 2 sends gradients in every pass


def test_arithmetic_follows_the_data_sheet_of_a_named_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """fp16 after fp32 on a V100: between all of computing limited by memory (2) and all by arithmetic (125 /
    15.7).
    """
    volta = [*BUYER, "--gpu", "v100", "--gpus", "1,8", "--images-per-sec", "2855", "--json"]
    assert main([*volta, "--what-if", "dtype=fp16"]) == 0
    faster = json.loads(capsys.readouterr().out)["predictions"][1]["images_per_s"] / 2855
    assert 2 < faster < 125 / 15.7
    assert main([*volta, "--what-if", "dtype=bf16"]) == 2
    assert "v100 has no units for bf16" in capsys.readouterr().err
    assert main([*BUYER, "--gpus", "8", "--what-if", "dtype=bf16"]) == 0
    assert "only the exchanged bytes change" in capsys.readouterr().out


def test_strong_scaling_shares_the_measured_batch_out(capsys: pytest.CaptureFixture[str]) -> None:
    weak, strong = (
        _efficiency(capsys, "--network", "eth-10")[1],
        _efficiency(capsys, "--network", "eth-10", "--mode", "strong")[1],
    )
    assert strong < weak
    assert main([*BUYER, "--mode", "strong", "--gpus", "2048"]) == 2
    assert "1024 images cannot be cut over 2048 GPUs" in capsys.readouterr().err


def test_one_gpu_of_the_same_step_time_is_the_same_in_both_modes(capsys: pytest.CaptureFixture[str]) -> None:
    """At the measured size weak and strong scaling are one question."""
    assert _efficiency(capsys)[0] == _efficiency(capsys, "--mode", "strong")[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--what-if", "speed=2x"], "speed=2x"),
        (["--what-if", "zero=4"], "zero=4"),
        (["--gpus", "8,x"], "GPU counts"),
        (["--network", "tin-cans"], "tin-cans"),
        (["--images-per-sec", "nan"], "above 0"),
    ],
)
def test_flags_that_mean_nothing_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*BUYER, *words])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*BUYER, "--gpus", "12"], "ask for 8 or 16"),
        ([*BUYER, "--model", "resnet5"], "did you mean resnet50"),
        (["predict", "--model", "resnet50"], "--images-per-sec, --measured-on, --micro-batch must be given"),
        (["predict", "--run", "nowhere.json"], "cannot be read"),
        (["compare", "a.json", "b.json"], "cannot be read"),
    ],
)
def test_questions_without_an_answer_end_with_code_2_and_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_prediction_is_kept_as_a_report(tmp_path: Path) -> None:
    assert main([*BUYER, "--gpus", "8,16", "--out", str(tmp_path / "p.json")]) == 0
    assert [each.gpus for each in load(tmp_path / "p.json").predictions] == [8, 16]


def test_resnet50_has_its_known_parameters_and_multiply_adds() -> None:
    layers = counted_layers("resnet50", dtype="fp16")
    assert sum(num_bytes for num_bytes, _ in layers) == 2 * 25_557_032
    assert sum(work for _, work in layers) == pytest.approx(
        4.1e9, rel=0.01
    )  # He et al. 2016, table 1: 3.8e9 without stride-in-3x3


def test_a_profiled_step_finds_the_buckets_that_counting_finds() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(512, 512) for _ in range(12)])
    images = torch.randn(64, 512)
    clock = HostClock()
    start, loss, stamps = clock.stamp(), model(images).sum(), GradientStamps(model, clock)
    middle = clock.stamp()
    loss.backward()
    stamps.end()
    timed = stamps.buckets(start, middle)
    counted = fill_buckets([(4.0 * (512 * 512 + 512), 1.0)] * 12)
    assert timed.num_bytes == counted.num_bytes
    assert timed.ready[-1] == pytest.approx(1)
    assert list(timed.ready) == sorted(timed.ready)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
