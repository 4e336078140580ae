"""fit, advise, compare, ingest and render on reports whose right answer is known."""

import csv
import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.landscape.critical_batch import fit
from tools.scaling_report.__main__ import COMMANDS, main
from tools.scaling_report.compare import is_slower
from tools.scaling_report.model.calibrate import fit_link
from tools.scaling_report.model.cost import Rate, knee, options_for, sentence
from tools.scaling_report.model.epochs import Critical, benchmarks
from tools.scaling_report.model.from_run import Named, read_baseline
from tools.scaling_report.model.prediction import Prediction
from tools.scaling_report.model.question import Question
from tools.scaling_report.publish import block
from tools.scaling_report.report import (
    Collective,
    OwnTimes,
    Report,
    ReportError,
    Row,
    half_interval,
    load,
    merged,
    rate_columns,
    with_efficiency,
)

ROW = Row(
    gpus=8,
    nodes=1,
    images_per_s=800.0,
    images_per_s_gpu=100.0,
    images_per_s_gpu_low=98.0,
    images_per_s_gpu_high=102.0,
)
PREDICTION = Prediction(
    gpus=16, nodes=2, images_per_s=1500, images_per_s_low=1400, images_per_s_high=1550,
    efficiency=0.94, efficiency_low=0.88, efficiency_high=0.97, step_s=0.3, global_batch=512,
    shares={"compute": 0.94, "communication": 0.06},
)  # fmt: skip


def _sweep(latency: float, rate: float) -> list[Collective]:
    points = [(nodes, size) for nodes in (2, 4) for size in (1_000, 100_000, 10_000_000)]
    cost = {2: (2, 1.0), 4: (6, 1.5)}
    return [
        Collective(gpus=n, nodes=n, num_bytes=size, seconds=cost[n][0] * latency + cost[n][1] * size / rate)
        for n, size in points
    ]


def test_fit_finds_latency_and_bandwidth() -> None:
    link = fit_link(_sweep(1e-4, 1e8))
    assert link.latency_s.value == pytest.approx(1e-4, rel=1e-3)
    assert 1 / link.s_per_byte.value == pytest.approx(1e8, rel=1e-3)
    assert link.latency_s.determined
    assert link.s_per_byte.determined


def test_fit_says_when_the_points_do_not_determine_a_value() -> None:
    sizes, noise = (50e6, 60e6, 70e6, 50e6, 60e6, 70e6), (1.03, 0.97, 1.02, 0.98, 1.01, 0.99)
    large_only = [
        replace(point, num_bytes=size, seconds=size / 1e8 * factor)
        for point, size, factor in zip(_sweep(0, 1e8), sizes, noise, strict=True)
    ]
    assert not fit_link([replace(point, nodes=2, gpus=2) for point in large_only]).latency_s.determined
    with pytest.raises(ReportError, match="cannot fix"):
        fit_link(_sweep(1e-4, 1e8)[:2])


def test_a_wild_timing_does_not_bend_the_fit() -> None:
    points = _sweep(1e-4, 1e8)
    points[3] = replace(points[3], seconds=points[3].seconds * 20)
    assert 1 / fit_link(points).s_per_byte.value == pytest.approx(1e8, rel=0.02)


def test_fit_prints_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = [
        OwnTimes(gpus=2, rank=rank, host=f"n{rank}", own_s=[0.98 + 0.02 * rank, 1.0 + 0.02 * rank] * 10)
        for rank in (0, 1)
    ]
    Report(collectives=_sweep(1e-4, 1e8), own_times=times).save(tmp_path / "r.json")
    assert main(["fit", str(tmp_path / "r.json")]) == 0
    out = capsys.readouterr().out
    assert "latency 100 us a message" in out
    assert "bandwidth 100 MB/s" in out
    assert re.search(r"jitter step by step: [\d.]+ % of a step, \+- 11.3% \(40 steps\)", out)
    assert "jitter between ranks: not determined by these points" in out  # two ranks are too few
    assert "past what was seen" in out.splitlines()[-1]
    Report(rows=[ROW]).save(tmp_path / "empty.json")
    assert main(["fit", str(tmp_path / "empty.json")]) == 2


def _rate(gpus: int, batch_size: int, images_per_s: float) -> Rate:
    return Rate(gpus=gpus, nodes=1, batch_size=batch_size, images_per_s=images_per_s)


def test_advise_by_hand() -> None:
    """Critical batch 1000, 1000 images at batch 0: at batch 1000 twice the examples (McCandlish et al. 2018,
    equation 2.11).
    """
    (one, ten) = options_for(
        [_rate(1, 100, 10.0), _rate(10, 1000, 100.0)], critical_batch=1000, least_examples=1000
    )
    assert one.hours == pytest.approx(1000 * 1.1 / 10 / 3600)
    assert ten.hours == pytest.approx(1000 * 2 / 100 / 3600)
    assert ten.gpu_hours == pytest.approx(10 * ten.hours)


def test_the_knee_is_the_last_doubling_that_pays() -> None:
    rates = [_rate(8 * 2**i, 256 * 2**i, 1000.0 * 2**i) for i in range(9)]
    options = options_for(rates, critical_batch=8192, least_examples=1e8)
    best = knee(options)
    times = {each.gpus: each.hours for each in options}
    assert 1 - times[best.gpus] / times[best.gpus // 2] >= 0.10
    assert 1 - times[best.gpus * 2] / times[best.gpus] < 0.10


def test_a_step_that_does_not_pay_is_no_knee_where_larger_sizes_pay() -> None:
    """The step to a second node: half as fast per GPU, and linear from there."""
    rates = [_rate(gpus, 256, gpus * (100.0 if gpus <= 8 else 50.0)) for gpus in (4, 8, 16, 32, 64)]
    options = options_for(rates, critical_batch=8192, least_examples=1e8)
    assert knee(options).gpus == 64
    assert "the step to 16 GPUs less: ask about larger sizes too" in sentence(options)
    flat = [_rate(gpus, 256, min(gpus, 16) * 100.0 * (1 + gpus / 1000)) for gpus in (4, 8, 16, 32, 64)]
    options = options_for(flat, critical_batch=8192, least_examples=1e8)
    assert knee(options).gpus == 16
    assert "past 16 each doubling saves under 10%" in sentence(options)


def test_small_times_are_not_rounded_to_nothing_and_one_size_has_no_knee() -> None:
    small = options_for([_rate(2, 8, 10.0)], critical_batch=8, least_examples=100)
    assert (
        sentence(small)
        == "2 GPUs take 20 seconds, 0.011 GPU-hours; one size alone has no knee: predict or measure more."
    )


def _predicted(path: Path, batch: Callable[[int], int]) -> Path:
    """A report with predictions for 8 to 2,048 GPUs, each of which adds as much as the first."""
    sizes = [8 * 2**i for i in range(9)]
    predictions = [
        replace(PREDICTION, gpus=gpus, images_per_s=125.0 * gpus, global_batch=batch(gpus)) for gpus in sizes
    ]
    Report(predictions=predictions).save(path)
    return path


@pytest.fixture
def growing(tmp_path: Path) -> Path:
    """Of 512 images a step."""
    return _predicted(tmp_path / "p.json", lambda _: 512)


@pytest.fixture
def weak(tmp_path: Path) -> Path:
    """Of 32 images a GPU."""
    return _predicted(tmp_path / "weak.json", lambda gpus: 32 * gpus)


def test_advise_says_it_in_a_sentence(weak: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", str(weak), "--critical-batch", "2000", "--examples", "1e8"]) == 0
    assert re.search(
        r"\d+ GPUs \(.*GPU-hours\); past \d+ each doubling saves under 10%", capsys.readouterr().out
    )


def test_under_strong_scaling_the_batch_stays_and_so_do_the_images(
    growing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", str(growing), "--critical-batch", "2000", "--examples", "1e8", "--json"]) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    assert {each["batch_size"] for each in options} == {512}
    assert options[0]["hours"] == pytest.approx(2 * options[1]["hours"])


def test_advise_reads_the_critical_batch_of_a_run(weak: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {
        "critical_batch": 2000,
        "critical_batch_interval": [500, 9000],
        "min_steps": 3000,
        "min_examples": 6e6,
    }
    note = weak.with_name("landscape") / "batch.json"
    note.parent.mkdir()
    note.write_text(json.dumps(found))
    words = ["advise", str(weak), "--json", "--noise-scale"]
    assert main([*words, str(weak.parent)]) == 0
    from_run = json.loads(capsys.readouterr().out)
    assert main([*words, str(note)]) == 0
    assert json.loads(capsys.readouterr().out) == from_run
    # 6e6 images at a very small batch; 8 GPUs take 256 at once, at 1,000 images/s.
    assert from_run["options"][0]["hours"] == pytest.approx(6e6 * (1 + 256 / 2000) / 1000 / 3600)
    assert re.search(r"the knee may lie from \d+ to \d+ GPUs", from_run["advice"])


def test_a_critical_batch_without_an_upper_bound_is_said_so(
    weak: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = weak.with_name("b.json")
    note.write_text(
        '{"critical_batch": 900, "critical_batch_interval": [400, null], "min_steps": 9, "min_examples": '
        "8100}"
    )
    assert main(["advise", str(weak), "--noise-scale", str(note)]) == 0
    out = capsys.readouterr().out
    assert "critical batch 900 images (400 to no known bound)" in out
    assert "to 2048 GPUs" in out  # without a bound every doubling may pay


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "lbtrain landscape batch"),
        ("{}", "does not say a critical batch"),
        ('{"critical_batch": 5, "critical_batch_interval": [9, 7], "min_examples": 1}', "cannot be"),
    ],
)
def test_a_run_without_a_critical_batch_is_rejected(
    text: str | None, said: str, weak: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (weak.parent / "b.json").write_text(text)
    assert main(["advise", str(weak), "--noise-scale", str(weak.parent / "b.json")]) == 2
    assert said in capsys.readouterr().err


def test_advise_prices_the_target_and_draws_it(growing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    larger = growing.with_name("larger.json")
    report = load(growing)
    report.predictions = [
        replace(each, global_batch=1024, images_per_s_low=900.0, images_per_s_high=1.2 * each.images_per_s)
        for each in report.predictions
    ]
    report.save(larger)
    out = growing.with_name("out")
    words = [
        "advise",
        str(growing),
        str(larger),
        "--mlperf",
        "resnet",
        "--price",
        "2.5/gpu-hour",
        "--gpu",
        "A100",
    ]
    assert main([*words, "--json", "--out", str(out)]) == 0
    answer = json.loads((out / "decision.json").read_text())
    assert answer["critical"]["batch"] == pytest.approx(46_000, rel=0.03)  # E_min (1 + B / B_crit)
    first = answer["options"][1]
    assert first["hours_low"] < first["hours"] < first["hours_high"]
    assert first["money"] == pytest.approx(2.5 * first["gpu_hours"])
    assert first["energy_kwh"] == pytest.approx(0.4 * first["gpu_hours"])
    assert {each["batch_size"] for each in answer["options"]} == {512, 1024}
    assert {path.name for path in out.iterdir()} == {
        f"decision.{kind}" for kind in ("json", "md", "png", "html")
    }
    assert (out / "decision.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.count("<- the knee") == 1
    assert all(name in text for name in ("money", "kWh", "90% interval", "minutes"))


def test_each_option_has_the_energy_of_its_own_reports_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An A100 draws 400 W, a V100 300 W, and nobody knows what ran the third."""
    files = []
    for gpus, origin in (
        (8, {"predicted_from": {"gpu": "a100"}}),
        (16, {"device": "Tesla V100-SXM2-32GB"}),
        (32, {}),
    ):
        row = replace(ROW, gpus=gpus, global_batch=32 * gpus)
        Report(rows=[row], provenance=origin).save(tmp_path / f"{gpus}.json")
        files.append(tmp_path / f"{gpus}.json")
    answers = [
        _advise(capsys, *order, "--out", str(tmp_path / "out")) for order in itertools.permutations(files)
    ]
    assert all(answer["options"] == answers[0]["options"] for answer in answers)
    watts = [
        each["energy_kwh"] and 1000 * each["energy_kwh"] / each["gpu_hours"] for each in answers[0]["options"]
    ]
    assert watts == [pytest.approx(400), pytest.approx(300), None]
    assert "Where a report does not say the GPU, the energy is left out" in answers[0]["advice"]
    assert "Where a report" not in _advise(capsys, *files, "--gpu", "a100")["advice"]


def _advise(capsys: pytest.CaptureFixture[str], *words: Path | str) -> dict[str, Any]:
    options = ["--critical-batch", "2000", "--examples", "1e8", "--json"]
    assert main(["advise", *map(str, words), *options]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("other", "rate", "kind"),
    [
        ({"zero_stage": 3, "images_per_s": 400.0}, 800, "weak, synthetic."),
        ({"zero_stage": 1, "images_per_s": 900.0}, 900, "weak, synthetic, ZeRO-1."),
        ({"mode": "strong", "images_per_s": 900.0}, 900, "strong, synthetic, 256 a step."),
        ({"data": "real", "images_per_s": 700.0}, 700, "weak, real."),
    ],
)
def test_advise_takes_the_fastest_kind_of_rows_and_names_it(
    other: dict[str, Any], rate: float, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row, report = replace(ROW, global_batch=256), tmp_path / "r.json"
    rows = [row, replace(row, **other)]
    for each in (rows, rows[::-1]):
        Report(rows=each).save(report)
        answer = _advise(capsys, report)
        (option,) = answer["options"]
        assert option["hours"] == pytest.approx(1e8 / rate / 3600)
        assert answer["advice"].endswith(kind)


def test_advise_counts_a_size_of_two_reports_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The measured point stands before the predicted one, in whatever order the reports are named; of two
    predictions the fastest counts, with its own interval.
    """

    def predicted(gpus: int, rate: float) -> Prediction:
        return Prediction(
            gpus=gpus, nodes=1, images_per_s=rate, images_per_s_low=rate / 2, images_per_s_high=2 * rate,
            efficiency=1.0, efficiency_low=1.0, efficiency_high=1.0, step_s=0.1, global_batch=32 * gpus,
        )  # fmt: skip

    row = replace(ROW, mode="strong", global_batch=256, images_per_s=1000.0)
    Report(rows=[row]).save(tmp_path / "measured.json")
    Report(predictions=[predicted(8, 9000.0), predicted(16, 1500.0)]).save(tmp_path / "first.json")
    Report(predictions=[predicted(8, 9000.0), predicted(16, 2000.0)]).save(tmp_path / "second.json")
    files = [tmp_path / f"{name}.json" for name in ("measured", "first", "second")]
    answers = [_advise(capsys, *order) for order in itertools.permutations(files)]
    options = answers[0]["options"]
    assert all(answer["options"] == options for answer in answers)
    hours = [[1e8 / rate / 3600 for rate in rates] for rates in ((1000, 1000, 1000), (2000, 4000, 1000))]
    at = {8: 1 + 256 / 2000, 16: 1 + 512 / 2000}
    least = 1 + 256 / 2000  # --examples are counted at batch 256
    assert [[each[name] for name in ("hours", "hours_low", "hours_high")] for each in options] == [
        pytest.approx([each * at[gpus] / least for each in row])
        for gpus, row in zip((8, 16), hours, strict=True)
    ]
    said = "Of several predictions of a size and batch in "
    assert all(
        answer["advice"].endswith("the fastest counts.") and said in answer["advice"] for answer in answers
    )


def test_micro_steps_are_options_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [replace(ROW, accumulation=number, global_batch=256 * number) for number in (1, 4)]
    Report(rows=rows).save(tmp_path / "r.json")
    answer = _advise(capsys, tmp_path / "r.json")
    assert [each["batch_size"] for each in answer["options"]] == [256, 1024]
    assert "several" not in answer["advice"]


def test_advise_reads_a_study_of_strong_scaling_and_prints_json_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = replace(ROW, mode="strong", global_batch=512)
    Report(rows=[row, replace(row, gpus=16, images_per_s=1600.0)]).save(tmp_path / "r.json")
    options = _advise(capsys, tmp_path / "r.json", "--out", str(tmp_path / "decision"))["options"]
    assert [(each["gpus"], each["batch_size"]) for each in options] == [(8, 512), (16, 512)]


def test_advise_takes_the_images_of_a_step_from_the_flag_where_a_table_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "rates.csv"
    table.write_text("gpus,images_per_s\n8,2800\n")
    assert _advise(capsys, table, "--micro-batch", "64")["options"][0]["batch_size"] == 512


def test_advise_takes_the_size_of_a_node_of_a_table_and_of_nothing_else(
    growing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "a.csv"
    table.write_text("gpus,images_per_s,per_gpu_batch\n4,1400,32\n8,2650,32\n")
    target = [
        "--critical-batch",
        "1000",
        "--examples",
        "1e8",
        "--at-batch",
        "256",
        "--price",
        "8/node-hour",
        "--json",
    ]
    costs = []
    for words in ([], ["--gpus-per-node", "4"]):
        assert main(["advise", str(table), *target, *words]) == 0
        costs.append(json.loads(capsys.readouterr().out)["options"][-1]["money"])
    assert costs[1] == pytest.approx(2 * costs[0])
    assert main(["advise", str(growing), *target, "--gpus-per-node", "4"]) == 2
    assert "the reports say it themselves: leave it out" in capsys.readouterr().err


def test_advise_keeps_a_batch_that_is_known(
    weak: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = _advise(capsys, weak)
    assert _advise(capsys, weak, "--micro-batch", "32") == known
    words = ["--critical-batch", "2000", "--examples", "1e8", "--micro-batch", "4"]
    assert main(["advise", str(weak), *words]) == 2
    said = "says that 8 GPUs take 256 images a step, not 32: leave out --micro-batch"
    assert said in capsys.readouterr().err
    table = tmp_path / "rates.csv"
    table.write_text("gpus,images_per_s,per_gpu_batch,accumulation\n8,2800,4,2\n")
    assert [each["batch_size"] for each in _advise(capsys, table, *words[-2:])["options"]] == [64]
    table.write_text("gpus,images_per_s,accumulation\n8,2800,2\n")
    assert [each["batch_size"] for each in _advise(capsys, table, *words[-2:])["options"]] == [64]


@pytest.mark.parametrize(
    ("gpus", "batch", "images_per_s", "minutes"),
    [(8, 3264, 26345, 29.147), (64, 3264, 166636, 4.534), (1024, 35840, 2307533, 0.575)],
)
def test_mlperfs_times_to_train_follow_from_its_convergence_points(
    gpus: int, batch: int, images_per_s: float, minutes: float
) -> None:
    """NVIDIA's results of MLPerf v1.1 (bench/published/scaling_2020s.csv), which nothing here was tuned
    to.
    """
    critical = Critical.of_mlperf("resnet")
    (option,) = options_for(
        [_rate(gpus, batch, images_per_s)],
        critical_batch=critical.batch,
        least_examples=critical.min_examples,
    )
    assert 60 * option.hours == pytest.approx(minutes, rel=0.05)


def test_each_of_mlperfs_benchmarks_has_a_critical_batch() -> None:
    found = {name: Critical.of_mlperf(name) for name in benchmarks()}
    assert found["maskrcnn"].batch == pytest.approx(830, rel=0.02)
    for each in found.values():
        assert each.low <= each.batch <= (each.high or math.inf)


def test_a_sweeps_hardest_goal_gives_a_critical_batch(
    growing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """steps = 3000 (1 + 1000 / B) to an error of 25 %, and fewer to one of 35 %."""

    def goal(value: float, fewest: int, critical: float) -> dict:
        sizes = (100, 1000, 10_000)
        points = [{"batch_size": size, "each": [fewest * (1 + critical / size)]} for size in sizes]
        return {"value": value, "points": points, "measured": fit(points)}

    sweep = growing.with_name("steps.json")
    sweep.write_text(json.dumps({"goals": [goal(25, 3000, 1000), goal(35, 1000, 400)]}))
    assert main(["advise", str(growing), "--sweep", str(sweep), "--json"]) == 0
    critical = json.loads(capsys.readouterr().out)["critical"]
    assert critical["batch"] == pytest.approx(1000, rel=1e-3)
    assert critical["min_examples"] == pytest.approx(3e6, rel=1e-3) and critical["largest"] == 10_000
    unbounded = goal(25, 3000, 1000)
    for interval in ((0, None), (500, None), (0, 2000)):
        unbounded["measured"]["critical_batch_interval"] = interval
        sweep.write_text(json.dumps({"goals": [unbounded]}))
        assert main(["advise", str(growing), "--sweep", str(sweep)]) == 2
        assert "do not bound the critical batch; add batch sizes or seeds" in capsys.readouterr().err
    sweep.write_text(json.dumps({"goals": []}))
    assert main(["advise", str(growing), "--sweep", str(sweep)]) == 2
    assert "steps.json is not a sweep's result" in capsys.readouterr().err


def test_the_images_are_known_where_they_were_measured(
    growing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """4.5e6 images were measured at batch 500, so that they are certain there; a batch of 4,000 takes
    3e6 (1 + 4000 / 1000), or from 4.5e6 (1 + 4000 / 2000) / (1 + 500 / 2000) to as much with 500.
    """
    found = {"critical_batch": 1000, "critical_batch_interval": [500, 2000], "min_examples": 3e6}
    points = [{"batch_size": size} for size in (250, 500, 1000)]
    files = {"--noise-scale": found | {"run_batch": 500}}
    files["--sweep"] = {"goals": [{"value": 1, "points": points, "measured": found}]}
    for flag, content in files.items():
        file = growing.with_name("critical.json")
        file.write_text(json.dumps(content))
        for batch, images in ((500, [4.5e6] * 3), (4000, [10.8e6, 15e6, 20.25e6])):
            Report(rows=[replace(ROW, global_batch=batch)]).save(growing)
            assert main(["advise", str(growing), flag, str(file), "--json"]) == 0
            (option,) = json.loads(capsys.readouterr().out)["options"]
            hours = [option[name] for name in ("hours_low", "hours", "hours_high")]
            assert hours == pytest.approx([each / 800 / 3600 for each in images])


def test_mlperfs_fewest_images_and_critical_batch_bound_the_time_together() -> None:
    """Within the batches that were trained with, leaving one out changes the images little."""
    critical = Critical.of_mlperf("resnet")
    assert critical.min_examples and len(critical.bounds()) > 3
    for least, slope in critical.parts:
        assert (least / slope, least) in critical.bounds()
    at = 16_384
    images = [(least or 0) * (1 + at / batch) for batch, least in critical.bounds()]
    assert max(images) / min(images) < 1.1


def test_advise_needs_to_know_how_far_the_target_is(
    growing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", str(growing), "--critical-batch", "2000"]) == 2
    assert "--examples must be given" in capsys.readouterr().err


def test_slower_is_beyond_both_intervals() -> None:
    near = replace(ROW, images_per_s_gpu=97, images_per_s_gpu_low=95, images_per_s_gpu_high=99)
    far = replace(ROW, images_per_s_gpu=90, images_per_s_gpu_low=88, images_per_s_gpu_high=92)
    single = replace(ROW, images_per_s_gpu=97, images_per_s_gpu_low=None, images_per_s_gpu_high=None)
    assert [is_slower(ROW, row) for row in (ROW, near, far, single)] == [False, False, True, False]
    assert is_slower(replace(single, images_per_s_gpu=100), replace(single, images_per_s_gpu=94))


def test_compare_exits_1_on_a_slow_down(tmp_path: Path) -> None:
    Report(rows=[ROW]).save(tmp_path / "a.json")
    Report(rows=[replace(ROW, images_per_s_gpu=80, images_per_s_gpu_low=79, images_per_s_gpu_high=81)]).save(
        tmp_path / "b.json"
    )
    Report(rows=[replace(ROW, gpus=64)]).save(tmp_path / "c.json")
    a, b, c = (str(tmp_path / f"{name}.json") for name in "abc")
    assert [main(["compare", *pair]) for pair in ((a, a), (a, b), (b, a), (a, c))] == [0, 1, 0, 2]


@pytest.mark.parametrize(("rate", "status"), [(2790, 0), (2600, 1)])
def test_compare_reads_tables_as_spreadsheets_save_them(rate: float, status: int, tmp_path: Path) -> None:
    before, after = tmp_path / "a.csv", tmp_path / "b.csv"
    before.write_text("gpus,images_per_s\r\n8,2800\r\n", encoding="utf-8-sig")
    after.write_text(f"gpus,images_per_s,status\n8.0,{rate}.0,ok\n16.0,0,failed\n")
    assert main(["compare", str(before), str(after)]) == status


def test_compare_sets_the_same_batch_and_precision_side_by_side(tmp_path: Path) -> None:
    head, before, after = "gpus,images_per_s,per_gpu_batch,precision", tmp_path / "a.csv", tmp_path / "b.csv"
    lines = ["8,2800,32,fp32", "8,3300,128,fp32", "8,9000,128,bf16"]
    before.write_text("\n".join([head, *lines]))
    after.write_text("\n".join([head, *lines[::-1]]))
    assert main(["compare", str(before), str(after)]) == 0
    after.write_text("\n".join([head, *lines[1:], "8,2000,32,fp32"]))
    assert main(["compare", str(before), str(after)]) == 1
    after.write_text(f"{head}\n8,2800,64,fp32\n")
    assert main(["compare", str(before), str(after)]) == 2


def test_compare_exits_1_where_a_point_of_the_first_failed_in_the_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row that was rejected before it was planned has no precision."""
    good = [replace(ROW, gpus=gpus, per_gpu_batch=32, precision="fp32") for gpus in (8, 16)]
    bad = replace(good[1], status="failed: out of memory", images_per_s=None, images_per_s_gpu=None)
    reports = {
        "a": good,
        "b": [good[0], bad],
        "c": [good[0], replace(bad, precision=None)],
        "d": [bad],
        "e": [good[0], replace(bad, per_gpu_batch=64)],
    }
    for name, rows in reports.items():
        Report(rows=rows).save(tmp_path / f"{name}.json")

    def compared(before: str, after: str) -> int:
        return main(["compare", str(tmp_path / f"{before}.json"), str(tmp_path / f"{after}.json")])

    assert [compared("a", name) for name in "abcde"] == [0, 1, 1, 1, 0]
    assert [compared(name, "a") for name in "bd"] == [0, 2]
    said = (
        f"failed in {tmp_path / 'b.json'}: 16 GPUs on 1 node, weak, synthetic, 32 a GPU, fp32 (failed: out of"
    )
    assert said in capsys.readouterr().out


def test_rows_of_another_batch_are_no_baseline(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("gpus,images_per_s,per_gpu_batch\n8,2800,32\n8,3300,128\n16,6500,128\n")
    assert [row.efficiency for row in load(table).rows] == pytest.approx([1, 1, 6500 / 6600])


def test_a_point_that_is_there_twice_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, log, out = tmp_path / "a.csv", tmp_path / "8.log", str(tmp_path / "out")
    table.write_text("gpus,images_per_s\n8,2800\n8,2000\n16,5300\n")
    log.write_text("throughput: 2800 images/s in total\n" * 4)
    Report(rows=[ROW]).save(tmp_path / "r.json")
    for words in (
        ["compare", str(table), str(table)],
        ["ingest", f"8={log}", f"8={log}"],
        ["render", str(tmp_path / "r.json"), str(tmp_path / "r.json")],
    ):
        assert main([*words, *["--out", out] * (words[0] != "compare")]) == 2
        assert "2 rows are of 8 GPUs on 1 node (weak, " in capsys.readouterr().err


def test_reports_are_merged_with_efficiency_over_all_and_with_their_origins() -> None:
    small, large = ROW, replace(ROW, gpus=16, nodes=2, images_per_s=1400.0, images_per_s_gpu=87.5)
    apart = [
        ("a.json", Report(rows=with_efficiency([small]), provenance={"commit": "1", "model": "resnet50"})),
        ("b.json", Report(rows=with_efficiency([large]), provenance={"commit": "2", "model": "resnet50"})),
    ]
    together = merged(apart)
    assert [row.efficiency for row in together.rows] == pytest.approx([1, 0.875])
    origins = {"commit of a.json": "1", "commit of b.json": "2", "model": "resnet50"}
    assert together.provenance == origins
    predicted = [(name, Report(predictions=[PREDICTION])) for name in ("p.json", "q.json")]
    with pytest.raises(ReportError, match=r"p\.json and q\.json hold predictions, .* give one of them"):
        merged(predicted)


def test_no_command_replaces_what_it_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, table, log = tmp_path / "scaling.json", tmp_path / "scaling.csv", tmp_path / "8.log"
    Report(rows=[ROW]).save(report)
    table.write_text("gpus,images_per_s\n8,2800\n16,5300\n")
    log.write_text("throughput: 2800 images/s in total\n" * 4)
    before = {path: path.read_bytes() for path in (report, table, log)}
    for words in (
        ["render", str(report), "--out", str(tmp_path)],
        ["render", str(table), "--out", str(tmp_path)],
        ["ingest", f"8={log}", "--out", str(log)],
        ["predict", "--run", str(table), *TABLE, "--gpus", "64", "--out", str(table)],
    ):
        assert main(words) == 2
        assert "which is read: give another --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_the_page_takes_rows_of_one_kind() -> None:
    rows = [replace(ROW, precision=precision) for precision in ("fp32", "bf16")]
    with pytest.raises(ReportError, match="not of weak, synthetic, bf16; weak, synthetic, fp32: render one"):
        block(Report(rows=rows), "name")


def test_of_a_size_on_several_numbers_of_nodes_the_fewest_count(tmp_path: Path) -> None:
    table, named = tmp_path / "a.csv", Named(model="resnet50", micro_batch=64, network="eth-25")
    for lines in ("8,1,2800\n16,2,5300\n16,4,4000", "8,1,2800\n16,4,4000\n16,2,5300"):
        table.write_text(f"gpus,nodes,images_per_s\n{lines}\n")
        assert read_baseline(table, named).rates == ((8, 2800), (16, 5300))


@pytest.mark.parametrize("line", ["0,1,2800", "-8,1,2800", "8.5,2,2800", "many,1,2800", ",1,2800", "8,0,2800",
    "8,1,0", "8,1,-2800", "8,1,nan"])  # fmt: skip
def test_a_line_of_a_table_that_cannot_be_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"gpus,nodes,images_per_s\n8,1,2800\n{line}\n")
    with pytest.raises(ReportError, match=r"line 3: .* above 0"):
        load(tmp_path / "a.csv")


def test_the_names_of_a_tables_columns_are_read_and_no_other_text(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text(", gpus,images_per_second,slowest_host\n0,8,2800,images_per_sec\n\n1,16,,\n")
    first, second = load(table).rows
    assert (first.gpus, first.images_per_s, first.slowest_host) == (8, 2800, "images_per_sec")
    assert (second.gpus, second.images_per_s) == (16, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpus,throughput\n8,2800\n", "no column is called throughput; there are gpus, nodes, mode"),
        ("gpus,images_per_s,images_per_sec\n8,2800,350\n", "several columns are called images_per_s:"),
        ("gpus,images_per_s\n8,2,800\n", "line 2 has more cells than the first line has names"),
    ],
)
def test_a_column_that_cannot_be_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ReportError, match=said):
        load(tmp_path / "a.csv")


def test_efficiency_is_against_the_smallest_good_row_of_its_kind() -> None:
    rows = with_efficiency([
        replace(ROW, gpus=4, status="timed out", images_per_s=None),
        ROW,
        replace(ROW, gpus=16, nodes=2, images_per_s=1200.0),
        replace(ROW, gpus=8, data="real", images_per_s=700.0),
    ])  # fmt: skip
    assert [row.efficiency for row in rows] == [None, 1.0, 0.75, 1.0]
    assert rows[2].speed_up == 1.5


def test_the_interval_of_a_mean_by_student() -> None:
    """Three values, two degrees of freedom: t = 4.303 (Student 1908)."""
    assert half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert "images_per_s_gpu_low" not in rate_columns(100.0, [0.01], 8)


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    rows = [
        ROW,
        replace(ROW, gpus=16, nodes=2, images_per_s=1500.0, compute_s=0.2, exposed_communication_s=0.05),
    ]
    rows.append(Row(gpus=32, nodes=4, status="timed out <script>alert(1)</script>"))
    Report(rows=with_efficiency(rows), provenance={"commit": "abc"}).save(tmp_path / "m.json")
    Report(predictions=[PREDICTION, replace(PREDICTION, gpus=32)]).save(tmp_path / "p.json")
    assert (
        main(["render", str(tmp_path / "m.json"), str(tmp_path / "p.json"), "--out", str(tmp_path / "out")])
        == 0
    )
    return tmp_path / "out"


def test_render_writes_all_five_files(rendered: Path) -> None:
    assert sorted(path.name for path in rendered.iterdir()) == [
        f"scaling.{kind}" for kind in ("csv", "html", "json", "md", "png")
    ]
    assert (rendered / "scaling.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((rendered / "scaling.csv").read_text().splitlines()))
    assert [row["gpus"] for row in rows] == ["8", "16", "32"]
    assert rows[2]["images_per_s"] == ""
    assert len(json.loads((rendered / "scaling.json").read_text())["predictions"]) == 2
    assert "| predicted " in (rendered / "scaling.md").read_text()


def test_the_page_stands_alone_and_is_honest(rendered: Path) -> None:
    page = (rendered / "scaling.html").read_text()
    assert not re.search(r"""(src|href)=["']?https?:|@import|<script""", page)
    assert "not measured" in page
    assert "&lt;script&gt;" in page
    assert page.count('<tr class="predicted">') == 2


@pytest.mark.filterwarnings("error:No artists")
@pytest.mark.parametrize("rows", [[Row(gpus=32, nodes=4, status="timed out")], [ROW]])
def test_a_report_with_one_size_or_none_that_was_measured_has_a_page(tmp_path: Path, rows: list[Row]) -> None:
    Report(rows=rows).save(tmp_path / "m.json")
    assert main(["render", str(tmp_path / "m.json"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "scaling.html").read_text()
    assert page.count("<svg") == 3 and "not recorded" in page


def test_the_page_opens_in_a_browser(rendered: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium to open the page with")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    opened = subprocess.run(
        [browser, *flags, f"file://{rendered}/scaling.html"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "<svg" in opened.stdout
    assert "Predicted" in opened.stdout


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as exit_:
            main([command, "--help"])
        assert exit_.value.code == 0
        assert len(capsys.readouterr().out) > 300


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"rows": [{"gpus": 1}], "predictions": [], "collectives": [], "provenance": {}}',
        "null",
    ],
)
def test_a_file_that_is_no_report_is_rejected(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ReportError, match="not a scaling report"):
        load(tmp_path / "x.json")


TABLE = ["--model", "resnet50", "--micro-batch", "64", "--network", "eth-25", "--dtype", "fp16"]


def test_a_table_of_throughputs_fixes_software_and_bandwidth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "rates.csv"
    table.write_text("gpus,images_per_sec\n8,2800\n16,5300\n64,20100\n")
    assert main(["fit", str(table), *TABLE]) == 0
    lines = capsys.readouterr().out.splitlines()
    shares = [[float(each) for each in re.findall(r"([\d.]+)%", line)] for line in lines]
    assert len(shares) == 3
    for middle, low, high, *_assumed in shares:
        assert 0 <= low <= middle <= high <= 100
    _, low, high, assumed_low, assumed_high = shares[1]
    assert "software between nodes" in lines[1]
    assert high - low < assumed_high - assumed_low
    assert main(["predict", "--run", str(table), *TABLE, "--gpus", "8,16,64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [each["images_per_s"] for each in found] == pytest.approx([2800, 5300, 20100])


@pytest.mark.parametrize(
    ("rows", "words", "said"),
    [
        ("8,2800", [], "--micro-batch"),
        ("8,2800", ["--micro-batch", "64", "--model", "resnet50"], "--network"),
        ("8,2800", ["--micro-batch", "64", "--network", "eth-25"], "--gradient-bytes 178MB"),
        ("8,2800", [*TABLE, "--images-per-sec", "3000"], "--images-per-sec would change nothing"),
        ("8,2800", [*TABLE, "--zero", "1"], "--zero would change nothing"),
        ("many,2800", TABLE, "not a scaling report"),
        ("8,2800,fp32", TABLE, "was measured with --dtype fp32: leave it out"),
        ("8,2800,auto", TABLE, "the precision 'auto' is not one of fp32, tf32, fp16, bf16"),
    ],
)
def test_what_a_table_leaves_open_must_be_named(
    rows: str, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "rates.csv"
    table.write_text(f"gpus,images_per_s,precision\n{rows}\n")
    assert main(["predict", "--run", str(table), "--gpus", "8,64", *words]) == 2
    assert said in capsys.readouterr().err


def test_fit_takes_what_a_table_leaves_open_as_predict_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "rates.csv"
    table.write_text("gpus,images_per_s\n4,1400\n8,2650\n32,10050\n")
    found = []
    for words in ([], ["--gpus-per-node", "4"], ["--gradient-bytes", "2"]):
        assert main(["fit", str(table), *TABLE, *words]) == 0
        found.append(capsys.readouterr().out)
    assert len(set(found)) == 3
    unknown = ["--model", "", "--gradient-bytes", "178MB", *TABLE[2:]]
    assert main(["fit", str(table), *unknown]) == 0


def test_a_run_on_several_nodes_alone_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "rates.csv"
    table.write_text("gpus,nodes,images_per_s\n16,2,5300\n32,4,10300\n")
    words = ["--model", "", "--gradient-bytes", "178MB", *TABLE[2:]]
    assert main(["predict", "--run", str(table), *words, "--gpus", "16,32,256", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [each["images_per_s"] for each in found[:2]] == pytest.approx([5300, 10300])
    assert found[2]["efficiency"] < found[1]["efficiency"]


def _nodes(capsys: pytest.CaptureFixture[str], run: Path, *words: str) -> list[int]:
    """Of 8, 16 and 64 GPUs."""
    assert main(["predict", "--run", str(run), *TABLE, "--gpus", "8,16,64", "--json", *words]) == 0
    return [each["nodes"] for each in json.loads(capsys.readouterr().out)["predictions"]]


@pytest.mark.parametrize(
    ("sizes", "words", "nodes"),
    [
        ((1, 16), [], [1, 2, 8]),
        ((1,), [], [1, 2, 8]),
        ((1, 4), ["--gpus-per-node", "4"], [2, 4, 16]),
        ((4, 16), ["--gpus-per-node", "16"], [1, 1, 4]),
    ],
)
def test_a_table_or_a_log_of_few_gpus_keeps_the_size_of_a_node(
    sizes: tuple[int, ...],
    words: list[str],
    nodes: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, report = tmp_path / "rates.csv", tmp_path / "r.json"
    table.write_text("gpus,images_per_s\n" + "".join(f"{gpus},{380 * gpus}\n" for gpus in sizes))
    assert _nodes(capsys, table, *words) == nodes
    logs = [tmp_path / f"{gpus}.log" for gpus in sizes]
    for gpus, log in zip(sizes, logs, strict=True):
        log.write_text(f"throughput: {380 * gpus} images/s in total\n" * 4)
    files = [f"{gpus}={log}" for gpus, log in zip(sizes, logs, strict=True)]
    assert main(["ingest", *files, *words, "--out", str(report)]) == 0
    capsys.readouterr()
    assert _nodes(capsys, report) == nodes


def test_the_size_of_a_node_may_be_named_where_no_row_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row, run = Row(gpus=2, nodes=1, images_per_s=760.0, data="log"), tmp_path / "r.json"
    Report(rows=[row]).save(run)
    assert _nodes(capsys, run) == [4, 8, 32]
    assert _nodes(capsys, run, "--gpus-per-node", "4") == [2, 4, 16]
    words = ["predict", "--run", str(run), *TABLE, "--gpus", "64", "--gpus-per-node"]
    assert main([*words, "1"]) == 2
    Report(rows=[row, replace(row, gpus=4, nodes=2)]).save(run)
    assert main([*words, "2"]) == 0
    assert main([*words, "8"]) == 2
    assert capsys.readouterr().err.count("was measured on nodes of 2 GPUs") == 2


def test_half_precision_of_a_log_is_named_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log says neither the GPU nor the type; both bear on what software costs."""
    table = tmp_path / "rates.csv"
    table.write_text("gpus,images_per_s\n8,20000\n")
    words = [*TABLE[:-2], "--gpu", "a100", "--gpus", "64", "--json"]
    software = []
    for dtype in ("fp32", "bf16"):
        assert main(["predict", "--run", str(table), *words, "--dtype", dtype]) == 0
        software.append(json.loads(capsys.readouterr().out)["predictions"][0]["shares"]["software"])
    assert software[1] > 2 * software[0]


@pytest.mark.parametrize("gpu", ["l40", None])
@pytest.mark.parametrize(
    ("model", "gradient_bytes"),
    [("Mask R-CNN", 4), ("Mask R-CNN", 178e6), ("mobilenetv3_small_100", 2), (None, 178e6)],
)
def test_a_run_is_the_same_question_as_its_flags(
    model: str | None, gradient_bytes: float, gpu: str | None, tmp_path: Path
) -> None:
    table = tmp_path / "rates.csv"
    table.write_text("gpus,images_per_s\n8,200\n")
    same: dict[str, Any] = {
        "model": model,
        "micro_batch": 12,
        "network": "eth-25",
        "gpu": gpu,
        "dtype": "bf16",
    }
    same["gradient_bytes"] = gradient_bytes
    run, question = read_baseline(table, Named(**same)), Question(images_per_sec=200, measured_on=8, **same)
    assert (run.job, run.topology) == (question.job(), question.topology())


def test_a_throughput_is_not_doubted_where_the_work_is_not_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """80,000 images/s of ResNet-50 are more than a V100 computes, of a small model they are not."""
    table = tmp_path / "rates.csv"
    table.write_text("gpus,images_per_s,per_gpu_batch\n8,80000,64\n")
    words = ["predict", "--run", str(table), "--network", "eth-25", "--gpu", "v100", "--gpus", "8"]
    said = []
    for model in (
        ["--model", "resnet50"],
        ["--model", "mobilenetv3_small_100"],
        ["--gradient-bytes", "10MB"],
    ):
        assert main([*words, *model]) == 0
        said.append(capsys.readouterr().out)
    assert ["TFLOP/s, more than v100's 16" in each for each in said] == [True, False, False]
    assert "--images-per-sec" not in said[0]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_row_of_a_precision_has_the_peak_of_its_data_sheet(precision: str, tmp_path: Path) -> None:
    table = tmp_path / "rates.csv"
    table.write_text(f"gpus,images_per_s,precision\n8,20000,{precision}\n")
    named = Named(model="resnet50", micro_batch=64, network="eth-25", gpu="a100")
    assert read_baseline(table, named).job.peak_tflops == {"fp32": 19.5, "tf32": 156, "bf16": 312}[precision]


def test_advise_says_where_batches_were_never_trained_with(
    growing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for images, said in ((32, False), (4000, True)):
        _predicted(growing, lambda gpus, images=images: gpus * images)
        assert main(["advise", str(growing), "--mlperf", "resnet"]) == 0
        assert ("extrapolated" in capsys.readouterr().out) is said
