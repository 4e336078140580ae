"""ingest: logs of other programs with their units, tables of nccl-tests, and traces of torch's profiler."""

import gzip
import json
import time
from pathlib import Path

import pytest

from tools.scaling_report.__main__ import main
from tools.scaling_report.formats.logs import job_rates
from tools.scaling_report.formats.sections import training_lines
from tools.scaling_report.formats.traces import ProfiledStep, read_trace
from tools.scaling_report.ingest import profiled_row, row_from
from tools.scaling_report.report import ReportError, Row, load

DEEPSPEED = (
    "[2026] [INFO] epoch=0/micro_step=50/global_step=50, RunningAvgSamplesPerSec=732.1, "
    "CurrSamplesPerSec=735.9, MemAllocated=1GB"
)
TIMM = (
    "Train: 0 [  50/1251 (  4%)]  Loss: 6.9 (6.9)  Time: 0.350s,  732.10/s  (0.360s,  711.00/s)  "
    "LR: 1.0e-05  Data: 0.011 (0.02)"
)
TORCHVISION = (
    "Epoch: [0]  [ 10/156]  eta: 0:01:10  lr: 0.1  img/s: 800.1 (790.2)  loss: 6.9 (7.0)  acc1: 0.0 (0.1)  "
    "time: 0.31  data: 0.00  max mem: 6000"
)
DLLOGGER = (
    "DLL 2021-03-04 10:00:00.1 - Epoch: 0 Iteration: 10  train.loss : 6.9  train.compute_ips : 2500.0 img/s  "
    "train.total_ips : 2470.5 img/s"
)
DLLOGGER_JSON = (
    'DLLL {"timestamp": "1", "elapsedtime": "2", "type": "LOG", "step": [0, 10], '
    '"data": {"val.total_ips": 9.0, "train.compute_ips": 2500.0, "train.total_ips": 2470.5}}'
)
MLLOG = (
    '0: :::MLLOG {"namespace": "", "time_ms": 1719843792116, "event_type": "POINT_IN_TIME", "key": '
    '"tracked_stats", "value": {"throughput": 26345.5}, "metadata": {"step": 4}}'
)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (DEEPSPEED, 735.9),
        (TIMM, 732.1),
        ("step 40  epoch 0.5  loss 1.2  lr 0.1  1,234 images/s", 1234.0),
        ("images/sec: 219.4 +/- 0.3", 219.4),
        ('{"step": 5, "images_per_sec": 1e3, "kind": "train"}', 1000.0),
        ("Iter #0: 300.1 img/sec per GPU", 8 * 300.1),
        ("Img/sec per GPU: 300.1 +-0.5", 8 * 300.1),
        (TORCHVISION, 8 * 800.1),
        ("lr: 0.1  img/s: 800", 8 * 800.0),
        ("300 images/s per GPU, total 2400 images/s", 2400.0),
        ("epoch 1: 300 samples/sec/GPU", 8 * 300.0),
        ("throughput 300 imgs/s per rank", 8 * 300.0),
        ("throughput 2400 images/s in total", 2400.0),
        ("throughput: 2400 img/s (300 img/s/GPU)", 2400.0),
        ("per-GPU throughput: 300 images/s", 8 * 300.0),
        ("throughput_per_gpu: 300 images/s", 8 * 300.0),
        ("each GPU processes 300 images/s", 8 * 300.0),
        ("300 images/s on each of 8 GPUs", 8 * 300.0),
        ("300 samples/s/chip", 8 * 300.0),
        ("images/s (per rank): 300", 8 * 300.0),
        ("images/s: 300 per GPU", 8 * 300.0),
        ("300.25 samples/s per GPU = 2400.5 samples/s", 2400.5),
        ("per GPU 300.25 samples/s = 2400.5 samples/s", 2400.5),
        ("2400.5 samples/s = 300.0 per GPU", 8 * 300.0),
        ("2400.5 img/s per-GPU=300.25 img/s", 2400.5),
        ("Speed: 2400.55 samples/sec\tPer-GPU: 300.07 samples/sec", 2400.55),
        ("peak 2500.5 images/s, mean 2400.5 images/s", 2400.5),
        ("loader: 9000.5 images/s, train: 2400.5 images/s", 2400.5),
        ("step = 100, loss = 6.9 (2600.52 examples/sec; 0.098 sec/batch)", 2600.52),
        ("throughput/device/samples_per_sec: 300.0", 8 * 300.0),
        ("train_samples_per_second = 2400.12", 2400.12),
        ("[1,0]<stdout>:Iter #0: 300.1 img/sec per GPU", 8 * 300.1),
        ("aggregate throughput (img/s): 2,400", 2400.0),
        ("2.4k images per second", 2400.0),
        ("images/s: 2.4k", 2400.0),
        ("img/s=2.4K loss=1.2", 2400.0),
        ("samples/sec 2.4 k", 2400.0),
        ("total images/sec: 2.4k", 2400.0),
        ("total 2.4k images/s", 2400.0),
        ("images/s: 2400 k=3", 2400.0),
        ("300 images/s on each GPU", 8 * 300.0),
        ("2'400 images/s", 2400.0),
        ("images/s: 1\u2019002\u2019400.5", 1_002_400.5),
        ("step 10  2_400 images/s", 2400.0),
        ("2\u202f400 images/s", 2400.0),
        ("2\u2009400 img/s", 2400.0),
        ("2\u00a0400 img/s", 2400.0),
        ("throughput: 2 400 images/s", 2400.0),
        ("speed=12 400.5 images/s", 12400.5),
        ("total 2 400 images/s", 2400.0),
        ("step 10  400 images/s", 400.0),
        ("12:30:15 400 images/s", 400.0),
        ("step 0 400 images/s", 400.0),
        ("step 10 400 images/s", 400.0),
        ("Epoch: 1 300 img/s, loss 2", 300.0),
        ("iter #2 400.5 images/s", 400.5),
        ("2.41 kimg/s", 2410.0),
        ("kimages/s = 2.41", 2410.0),
        ("kimg/s: 2.41", 2410.0),
        ("300.1 images/s (2400.8 total)", 2400.8),
        ("300.1 images/s, 2400.8 in total", 2400.8),
        ("300.1 img/s | total 2400.8", 2400.8),
        ("device/samples_per_sec: 300.5", 8 * 300.5),
        ("2400.1 images/s (8 GPUs)", 2400.1),
        ("8 GPUs: 2400.1 images/s", 2400.1),
        ("num_workers=8 2400.1 images/s", 2400.1),
        ("device=cuda 2400.1 images/s", 2400.1),
        ("step10: 2400.1 images/s", 2400.1),
        ("2400.5 images/s on 8 A100 GPUs", 2400.5),
        ("training on 4 nodes: 2400.5 images/s", 2400.5),
        ("GPU mem 3.2G 2400.5 images/s", 2400.5),
        ("loss 3 val_loss 2 2400.5 images/s, val acc 70.5", 2400.5),
        (DLLOGGER, 2470.5),
        (DLLOGGER_JSON, 2470.5),
        (MLLOG, 26345.5),
    ],
)
def test_the_unit_of_a_line_decides_what_it_is_of(line: str, value: float) -> None:
    assert job_rates([line] * 4, gpus=8) == pytest.approx([value] * 3)


HOROVOD = [*(f"Iter #{i}: 300.{i} img/sec per GPU" for i in range(10)), "Img/sec per GPU: 300.5 +-0.5"]


TOTAL = "Total img/sec on 8 GPU(s): 2404.0 +-4.0"


def test_horovods_total_is_checked_against_its_values() -> None:
    assert job_rates([*HOROVOD, "Total img/sec on 8 GPU(s): 2404.0 +-4.0"], gpus=8)[0] == pytest.approx(
        2400.8
    )
    with pytest.raises(ReportError, match=r"two readings: 4,80\d.* 2,404"):
        job_rates([*HOROVOD, TOTAL], gpus=16)


TF_CNN = [
    "Step\tImg/sec\ttotal_loss",
    *(f"{i}0\timages/sec: 300.0 +/- 0.1 (jitter = 0.5)\t7.8" for i in range(8)),
]


def test_tf_cnn_benchmarks_values_are_of_a_process() -> None:
    """One GPU leaves no doubt; on eight only the last line, or --per, says how many processes there were."""
    assert set(job_rates(TF_CNN, gpus=1)) == {300.0}
    assert set(job_rates([*TF_CNN, "total images/sec: 2400.00"], gpus=8)) == {2400.0}
    assert set(job_rates([*TF_CNN, "total images/sec: 300.12"], gpus=8)) == {300.0}
    assert set(job_rates(TF_CNN, gpus=8, per="process")) == {2400.0}
    with pytest.raises(ReportError, match=r"two readings: 300\.0 .* or 2,400\.0"):
        job_rates(TF_CNN, gpus=8)


@pytest.mark.parametrize("line", ["300 images/s per node", "GPU 0: 300 images/s", "[rank 3] 300 samples/s",
    "300 images/s/core", "300 images/sec on GPU 0", "300 img/s (rank 3)", "img/s: 300, node 1",
    "300 images/s from worker 2", "local throughput 300.0 images/s", "this rank: 300 images/s",
    "0: 300 images/s", "cuda:0 300 images/s", "[1,0]<stdout>: 300 images/s", "[default0]:300 images/s",
    "worker-0: 300 images/s", "node throughput: 300 images/s", "mean over ranks: 300 img/s",
    "8 x 300 images/s", "300 images/s x 8", "8 GPUs, 300 images/s each", "local_rank=0 300 images/s",
    "rank_0 300 images/s", "300 images/s \u00d7 8 GPUs", "8 GPUs @ 300 images/s", "300 images/s (one GPU)",
    "single-GPU throughput: 300 images/s", "on a GPU: 300 images/s", "300 images/s averaged over 8 GPUs",
    "(RayTrainWorker pid=123) 300 images/s", "8 \u00d7 300 images/s", "10.0.0.1: 300 images/s",
    "n001: 300 images/s"])  # fmt: skip
def test_what_may_be_of_a_part_or_of_the_job_is_rejected_with_both_readings(line: str) -> None:
    assert job_rates([line] * 4, gpus=1) == [300.0] * 3
    assert job_rates([line] * 4, gpus=8, per="total") == [300.0] * 3
    with pytest.raises(ReportError, match=r"two readings: 300\.0 .* or 2,400\.0"):
        job_rates([line] * 4, gpus=8)


def test_a_stated_total_is_not_multiplied_by_what_is_said_of_the_other_values() -> None:
    lines = [*(f"speed 300.{number} images/s" for number in range(6)), "total images/sec: 2400"]
    assert job_rates(lines, gpus=8, per="gpu") == [8 * float(f"300.{number}") for number in range(1, 6)]


@pytest.mark.parametrize(
    "lines",
    [
        [f"step {number} 800 images/s" for number in range(50)],
        [TIMM.replace("732.10", "800.0")] * 50,
        ["800 images/s per GPU = 800.5 images/s", *["total 800 images/s"] * 50],
    ],
)
def test_a_slow_last_step_is_no_second_reading(lines: list[str]) -> None:
    rates = job_rates([*lines, lines[-1].replace("800", "600")], gpus=8)
    assert (rates[0], rates[-1]) == (800, 600)


@pytest.mark.parametrize(
    ("lines", "rate"),
    [
        ([DEEPSPEED] * 5, 735.9),
        ([TORCHVISION] * 5, 8 * 800.1),
        ([*[DEEPSPEED] * 5, "throughput 300.5 images/s"], 735.9),
        (["speed 300 images/s", "total images/sec: 2400"] * 5, 2400.0),
    ],
)
def test_what_a_log_decides_is_not_asked_of_per(lines: list[str], rate: float) -> None:
    """One --per is given for several files."""
    assert set(job_rates(lines, gpus=8, per="process")) == {rate}


def test_steps_that_contradict_the_totals_of_the_job_are_rejected() -> None:
    totals = ["total images/sec: 2400"] * 2
    with pytest.raises(ReportError, match=r"two readings: 300\.0 .* 2,400"):
        job_rates([*["speed 300 images/s"] * 6, *totals], gpus=8)


@pytest.mark.parametrize(
    ("line", "both"),
    [
        ("2 400 images/s", "2,400 or 400"),
        ("progress 10 400 images/s", "10,400 or 400"),
        ("step 10 2 400 images/s", "2,400 or 400"),
        ("step 1 300 400 images/s", "1,300,400 or 400"),
        ("images/s: 2 400", "2,400 or 2"),
        ("img/s per GPU: 300 128", "300,128 or 300"),
        ("loss 3 1 300 400.5 samples/s", "1,300,400.5 or 400.5"),
    ],
)
def test_a_space_between_figures_is_rejected_where_the_first_may_be_a_counter(line: str, both: str) -> None:
    with pytest.raises(ReportError, match=rf"two readings: {both}.*without spaces"):
        job_rates([line] * 9, gpus=8)


@pytest.mark.parametrize("line", ["Validation: 9000 images/s", "Test: [ 3/98]  img/s: 9000", "300,5 images/s",
    "Test:   [ 10/100]  eta: 0:00:10  loss: 1.2  img/s: 1800.1", "Validation: total 1800.1 images/s",
    "Test: 1800.1 images/s total", "[test] total_ips : 1800.1", "theoretical: 2400.5 images/s",
    "data: 2400.5 images/s", "predict 2400.5 images/s", "Mimg/s: 2.4", "[eval] 9000 images/s",
    "Validating: 9000 images/s", "val/images_per_sec: 9000",
    "eval_images_per_sec: 9000", "Infer [10/40]. 2000.5 samples/sec",
    "DLL 2021 - Epoch: 0  val.total_ips : 9000 img/s", "2.400,5 images/s", "2'40 images/s", "-300 images/s",
    "300-400 images/s", "inference: 9000 images/s", "data loading 9000 images/s",
    "target throughput: 9000 img/s", "dataloader speed: 9000 img/s",
    "expected 9000 images/s", "peak 9000 images/s"])  # fmt: skip
def test_scoring_and_numbers_of_other_countries_are_no_rates(line: str) -> None:
    """A comma before the decimals would read 300,5 as 3,005."""
    with pytest.raises(ReportError, match="0 images/s values"):
        job_rates([line] * 9, gpus=8)


LINES = [f"throughput: 2.{number} images/s" for number in (400, 410, 405, 395, 400)]


@pytest.mark.parametrize(
    "line",
    ["2.400 images/s", "total images/s: 2.400", "images/s per GPU: 312.447", "on 28.11.2026: 2.400 img/s",
     "v0.35, 2.400 samples/sec"],
)  # fmt: skip
def test_a_dot_before_three_figures_is_rejected_where_nothing_decides(line: str) -> None:
    with pytest.raises(ReportError, match=r"two readings: \d+\.\d{3} images/s .* or \d+,\d{3} with"):
        job_rates([line] * 5, gpus=8)


@pytest.mark.parametrize(
    ("other", "value"),
    [
        ("throughput: 2.5 images/s", 2.4),
        ("time 0.351 s, 2.398 images/s", 2.4),
        ("loss 2.1234, 2.398 images/s", 2.4),
        ("throughput: 2398.125 images/s", 2.4),
        ("throughput: 2,398.125 images/s", 2.4),
    ],
)
def test_a_decimal_dot_beside_a_rate_decides(other: str, value: float) -> None:
    rates = job_rates([other, *LINES], gpus=8)
    assert rates == [pytest.approx(each) for each in (value, 2.41, 2.405, 2.395, 2.4)]


def test_programs_that_are_known_write_decimal_dots() -> None:
    for line in ("CurrSamplesPerSec=312.447", "Iter #0: 2.400k img/sec", '{"images_per_sec": 2.4}'):
        assert len(job_rates([line] * 5, gpus=1)) == 4


def test_mlperf_epochs_are_rates_where_no_throughput_is_logged() -> None:
    """1,281,167 images an epoch; a block of four epochs in 400 s."""

    def event(key: str, value: object, seconds: float, **metadata: object) -> str:
        values = {"time_ms": 1000 * seconds, "key": key, "value": value, "metadata": metadata}
        return f":::MLLOG {json.dumps(values)}"

    lines = [event("train_samples", 1281167, 0)]
    for block in range(5):
        lines.append(event("block_start", None, 500 * block, first_epoch_num=4 * block, epoch_count=4))
        lines.append(event("block_stop", None, 500 * block + 400, first_epoch_num=4 * block))
    assert job_rates(lines, gpus=64) == pytest.approx([4 * 1281167 / 400] * 4)


def test_lines_without_a_rate_say_nothing() -> None:
    with pytest.raises(ReportError, match="0 images/s values"):
        job_rates(["loss 5.0", "{broken", '{"step": 1}', "", ":::MLLOG nonsense", "DLLL {"], gpus=8)


@pytest.mark.parametrize(
    "lines",
    [
        ["DLLL [1]", "DLLL null", 'DLLL {"data": "x"}'],
        ['{"images_per_sec": Infinity}', '{"images_per_sec": true}', f'{{"images_per_sec": 1{"0" * 400}}}'],
        ["1e999 images/s", f"{'1' * 5000} images/s", '{"a":' * 100_000],
        [':::MLLOG {"value": 1}', ':::MLLOG {"key": "throughput"}', ':::MLLOG {"key": ["throughput"]}'],
        [
            ':::MLLOG {"key": "throughput", "value": Infinity}',
            ':::MLLOG {"key": "throughput", "value": true}',
        ],
        [
            ':::MLLOG {"key": "train_samples", "value": 100}',
            ':::MLLOG {"key": "block_start", "time_ms": 5, "metadata": null}',
            ':::MLLOG {"key": "block_stop", "time_ms": 3}',
            ':::MLLOG {"key": "block_start", "time_ms": "5", "metadata": {"epoch_count": "4"}}',
            ':::MLLOG {"key": "block_stop", "time_ms": 9000}',
        ],
    ],
)
def test_damaged_lines_are_no_rates(lines: list[str]) -> None:
    with pytest.raises(ReportError, match="0 images/s values"):
        job_rates(lines * 5, gpus=8)


def test_ingest_makes_a_report_with_efficiency(tmp_path: Path) -> None:
    for gpus, rate in ((8, 800), (16, 1500)):
        lines = "".join(f"step {i} {rate + i % 3} images/s\n" for i in range(50))
        (tmp_path / f"{gpus}.txt").write_text(lines)
    words = ["ingest", f"8={tmp_path}/8.txt", f"16={tmp_path}/16.txt", "--out", str(tmp_path / "r.json")]
    assert main(words) == 0
    eight, sixteen = load(tmp_path / "r.json").rows
    assert eight.efficiency == 1
    assert sixteen.efficiency == pytest.approx(1501 / 801 / 2, rel=1e-3)
    assert sixteen.images_per_s_gpu_low < sixteen.images_per_s_gpu < sixteen.images_per_s_gpu_high
    (tmp_path / "8.txt").write_text("nothing")
    assert main(words) == 2


NCCL_HEAD = "#  size  count  type   redop  root  time  algbw  busbw #wrong"


@pytest.mark.parametrize(
    ("begin", "end"),
    [("Validation:", "Training:"), ("== Evaluation, epoch 3 ==", "== Training, epoch 4 =="),
     ("2026-11-28 10:11:12 INFO Running validation", "2026-11-28 10:12:12 INFO Running training"),
     ("[epoch 3] test", "[epoch 4] train")],
)  # fmt: skip
def test_a_section_of_a_validation_is_left_out(begin: str, end: str) -> None:
    training = [f"step {number} total 2400 images/s" for number in range(6)]
    scoring = ["batch 1 total 9000 images/s"] * 9
    assert job_rates([*training, begin, *scoring, end, *training], gpus=8) == [2400] * 11


@pytest.mark.parametrize(
    "line",
    [
        "Validation accuracy 71.3 %",
        "test: 71.3",
        "Testing 3.5",
        "the test set has 10,000 images",
        "validation",
    ],
)
def test_a_result_or_a_lone_heading_ends_no_training(line: str) -> None:
    training = [f"step {number} total 2400 images/s" for number in range(6)]
    assert len(job_rates([*training, line, *training], gpus=8)) == 11


def test_a_line_of_many_figures_is_read_in_no_time() -> None:
    started = time.monotonic()
    assert training_lines(["Test: " + 500 * "1" + "x"] * 20)
    assert time.monotonic() - started < 1


def test_stalls_and_two_kinds_of_rates_are_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "8.log"
    for rates, rate, said in (
        ([2400] * 12 + [0] * 4, 2400 * 11 / 15, "4 of 15 values are 0 images/s"),
        (
            [2400] * 8 + [600] * 4,
            11 / (7 / 2400 + 4 / 600),
            "two kinds: 4 of about 600 images/s and 7 of about 2,400",
        ),
        ([2400] * 8 + [600], 8 / (7 / 2400 + 1 / 600), ""),
    ):
        log.write_text("".join(f"total {rate} images/s\n" for rate in rates))
        assert main(["ingest", f"8={log}", "--out", str(tmp_path / "r.json")]) == 0
        (row,) = load(tmp_path / "r.json").rows
        assert row.images_per_s == pytest.approx(rate)
        out = capsys.readouterr().out
        assert said in out and ("note:" in out) is bool(said)


def test_a_slow_step_counts_by_its_time() -> None:
    """Steps of 0.4, 0.1 and 0.1 s of 512 images, in a trace and in a log whose first value is warm-up."""
    steps = [ProfiledStep(number, seconds, 0, 0, 0, 0) for number, seconds in enumerate((0.4, 0.1, 0.1))]
    lines = [f"{512 / step.seconds} images/s" for step in (steps[0], *steps)]
    row = Row(gpus=8, nodes=1, global_batch=512)
    for found in (profiled_row(steps, row), row_from(job_rates(lines, gpus=8), row)):
        assert found.images_per_s == pytest.approx(3 * 512 / 0.6)


def _nccl(ranks: int, hosts: int, *, bus: float = 1.0) -> str:
    """As all_reduce_perf prints it; 10 us and 10 GB/s."""
    lines = ["# nThread 1 nGpus 1 minBytes 1024 maxBytes 1048576 step: 8(factor)", "#", "# Using devices"]
    for rank in range(ranks):
        host = f"node{rank * hosts // ranks}"
        lines.append(f"#  Rank {rank:2} Group  0 Pid {100 + rank} on {host} device  0 [0x07] NVIDIA A100")
    lines.append(
        "#       size         count      type   redop    root     time   algbw   busbw #wrong     time"
    )
    lines.append(
        "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)"
    )
    for size in (1024, 65536, 4194304, 268435456):
        seconds = 10e-6 * 2 * (hosts - 1) + 2 * (ranks - 1) / ranks * size / 10e9
        rate = size / seconds / 1e9
        times = f"{1e6 * seconds:.2f} {rate:.4f} {bus * rate * 2 * (ranks - 1) / ranks:.4f} 0"
        lines.append(f"{size:12} {size // 4} float sum -1 {times} {times}")
    return "\n".join([*lines, "# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 4.2", ""])


def test_a_table_of_nccl_tests_becomes_the_network_of_a_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "8.txt").write_text("".join(f"step {i} {2800 + i % 3} images/s\n" for i in range(50)))
    (tmp_path / "nccl.txt").write_text(_nccl(16, 2))
    out = str(tmp_path / "r.json")
    words = [
        "ingest",
        f"8={tmp_path}/8.txt",
        f"16={tmp_path}/nccl.txt",
        "--per-gpu-batch",
        "128",
        "--out",
        out,
    ]
    assert main(words) == 0
    sweep = load(tmp_path / "r.json").collectives
    assert [(each.gpus, each.nodes, each.num_bytes) for each in sweep[:1]] == [(16, 2, 1024)]
    capsys.readouterr()
    assert main(["fit", out]) == 0
    assert "between nodes, by all-reduce: bandwidth 10,000 MB/s" in capsys.readouterr().out
    assert main(["predict", "--run", out, "--gpus", "8,64"]) == 2
    assert "--model" in capsys.readouterr().err
    assert main(["predict", "--run", out, "--model", "resnet50", "--gpus", "8,64", "--json"]) == 0
    eight, many = json.loads(capsys.readouterr().out)["predictions"]
    assert eight["efficiency"] == pytest.approx(1)
    assert 0.8 < many["efficiency"] < 1


@pytest.mark.parametrize(
    ("gpus", "text", "said"),
    [
        (8, _nccl(16, 2), "lists 16 ranks, not 8"),
        (16, _nccl(16, 2, bus=0.5), "another collective"),
        (2, f"{NCCL_HEAD}\n", "no line of times"),
        (1, NCCL_HEAD, "one rank exchanges nothing"),
        (2, "#  size  count  type   redop  root  algbw  busbw #wrong\n", "no column time"),
        (2, f"{NCCL_HEAD}\n 1024 256 float sum -1 0.00 9 9 0", "1,024 bytes take 0.0 us"),
        (2, f"{NCCL_HEAD}\n 1024 256 float sum -1 nan 9 9 0", "1,024 bytes take nan us"),
        (2, f"{NCCL_HEAD}\n 4000 1000 float sum -1 1e-3 4 4 0", "4,000 bytes in 0.001 us are 4,000.00 GB/s"),
        (2, f"{NCCL_HEAD}\n 4000 1000 float sum -1 1 4 4 17", "17 results of 4,000 bytes are wrong"),
    ],
)
def test_a_table_that_is_not_of_these_all_reduces_is_rejected(
    gpus: int, text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.txt").write_text(text)
    assert main(["ingest", f"{gpus}={tmp_path}/t.txt", "--out", str(tmp_path / "r.json")]) == 2
    assert said in capsys.readouterr().err


LOADER = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"


def _event(name: str, cat: str, start: float, end: float) -> dict:
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "ts": start,
        "dur": end - start,
        "pid": 0,
        "tid": 7,
        "args": {},
    }


def _trace(*, ranks: int = 16) -> dict:
    """Three steps of 100 ms: 10 ms of waiting, computing from 10 to 80, NCCL from 60 to 95: 15 ms are
    exposed.
    """
    events: list[dict] = [{"ph": "M", "name": "process_name", "args": {}}]
    for step in range(3):
        at = 1e5 * step
        events += [
            _event(f"ProfilerStep#{step}", "user_annotation", at, at + 1e5),
            _event(f"ProfilerStep#{step}", "gpu_user_annotation", at + 1e4, at + 9.5e4),
            _event(
                LOADER,
                "user_annotation",
                at,
                at + 1e4,
            ),
            _event("aten::conv2d", "cpu_op", at, at + 5e4),
            _event("sm80_xmma_fprop", "kernel", at + 1e4, at + 5e4),
            _event("elementwise_kernel", "kernel", at + 4e4, at + 8e4),
            _event("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevComm*)", "kernel", at + 6e4, at + 9.5e4),
        ]
    return {"schemaVersion": 1, "distributedInfo": {"rank": 0, "world_size": ranks}, "traceEvents": events}


def test_a_profilers_trace_says_where_each_step_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rank0.json.gz"
    path.write_bytes(gzip.compress(json.dumps(_trace()).encode()))
    steps, ranks = read_trace(path)
    assert ranks == 16
    assert [step.number for step in steps] == [0, 1, 2]
    for step in steps:
        found = (step.seconds, step.compute, step.exchange, step.exposed, step.data)
        assert found == pytest.approx((0.1, 0.07, 0.035, 0.015, 0.01))
        assert step.overlap == pytest.approx(20 / 35)
    words = ["ingest", f"16={path}", "--per-gpu-batch", "32", "--out", str(tmp_path / "r.json")]
    assert main(words) == 0
    assert "57%" in capsys.readouterr().out
    (row,) = load(tmp_path / "r.json").rows
    assert (row.gpus, row.nodes) == (16, 2)
    assert row.images_per_s == pytest.approx(16 * 32 / 0.1)
    assert (row.exposed_communication_s, row.loader_wait_s) == pytest.approx((0.015, 0.01))


def test_a_trace_of_a_cpu_is_read_by_its_operators(tmp_path: Path) -> None:
    events = [
        _event("ProfilerStep#5", "user_annotation", 0, 1000),
        _event("aten::mm", "cpu_op", 0, 600),
        _event("gloo:all_reduce", "cpu_op", 500, 900),
    ]
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"traceEvents": events}))
    ((step,), ranks) = read_trace(path)
    assert (ranks, step.number) == (None, 5)
    assert (step.exchange, step.exposed) == pytest.approx((400e-6, 300e-6))


@pytest.mark.parametrize(
    ("change", "gpus", "said"),
    [
        ({}, 8, "16 ranks, not 8"),
        ({"traceEvents": []}, 16, "no ProfilerStep"),
        ({"traceEvents": [{"ph": "X", "cat": "kernel", "name": "x"}]}, 16, "not a trace"),
        ({"traceEvents": [_event("ProfilerStep#5", "user_annotation", 0, 0)]}, 16, "step 5 takes no time"),
        ({"traceEvents": [_event("ProfilerStep#5", "user_annotation", 9, 0)]}, 16, "#5 takes -9.0 us"),
        ({"traceEvents": [_event("x", "cpu_op", float("nan"), 9)]}, 16, "x takes nan us"),
    ],
)
def test_a_trace_that_does_not_tell_is_rejected(
    change: dict, gpus: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.json").write_text(json.dumps(_trace() | change))
    assert main(["ingest", f"{gpus}={tmp_path}/t.json", "--out", str(tmp_path / "r.json")]) == 2
    assert said in capsys.readouterr().err
    (tmp_path / "t.json").write_text(json.dumps(_trace())[:-100])
    assert main(["ingest", f"16={tmp_path}/t.json", "--out", str(tmp_path / "r.json")]) == 2


@pytest.mark.parametrize("damage", ["cut", "stream", "nested", "job"])
def test_a_damaged_trace_ends_in_a_message(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = json.dumps(_trace() | {"distributedInfo": ["no object"]}).encode()
    packed = gzip.compress(whole)
    content = {
        "cut": packed[: len(packed) // 2],
        "stream": packed[:10] + b"\xff" * 20 + packed[30:],
        "nested": b'{"traceEvents":' + b"[" * 100_000,
        "job": whole,
    }[damage]
    path = tmp_path / ("t.json.gz" if damage in ("cut", "stream") else "t.json")
    path.write_bytes(content)
    assert main(["ingest", f"16={path}", "--out", str(tmp_path / "r.json")]) == (0 if damage == "job" else 2)
    said = capsys.readouterr().err
    assert damage == "job" or f"{path}: " in said


def test_a_trace_of_several_nodes_alone_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rank0.json").write_text(json.dumps(_trace()))
    out = str(tmp_path / "r.json")
    words = ["ingest", f"16={tmp_path}/rank0.json", "--per-gpu-batch", "32", "--model", "resnet50"]
    assert main([*words, "--out", out]) == 0
    assert main(["fit", out]) == 0
    assert "between nodes, by step times: bandwidth" in capsys.readouterr().out
    assert main(["predict", "--run", out, "--gpus", "16,64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert found[0]["images_per_s"] == pytest.approx(16 * 32 / 0.1)
    assert 0.5 < found[1]["efficiency"] < 1
