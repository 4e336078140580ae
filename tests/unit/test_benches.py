"""The benches can still be run. Their calls are held against the library by mypy; here each takes its first
step, on something tiny.
"""

import argparse
import ast
import importlib
import itertools
import math
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from lbtrain.data import registry
from lbtrain.data.registry import dataset_info
from lbtrain.errors import Diverged, RecipeError
from lbtrain.launch.world import detect_world, start_process_group
from lbtrain.plan.plan import make_plan
from lbtrain.recipe.files import load_recipe

FOLDER = Path(__file__).parents[2] / "bench"
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__"))


@pytest.fixture(scope="module", autouse=True)
def alone():
    with mock.patch.dict(os.environ):  # a bench hides the GPUs from its process
        start_process_group(detect_world())
        yield
        torch.distributed.destroy_process_group()


def test_each_can_be_imported_and_uses_nothing_private_of_the_library():
    assert len(MODULES) > 12
    for name in MODULES:
        importlib.import_module(f"bench.{name}")
        for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lbtrain"):
                assert not [each.name for each in node.names if each.name.startswith("_")], name


def test_every_bench_of_the_cpu_hides_the_gpus_before_anything_asks_for_them():
    """Each is started as a user starts it, up to its options. `asked` has those that asked torch for a GPU
    before, `seen` those that leave the GPUs as they are.
    """
    started = [name for name in MODULES if name != "timm_train"]  # a peer's, which bench.accuracy starts
    code = f"""
import contextlib, os, runpy, sys, torch

def asks():
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        asked.append(name)
    return False

torch.cuda.is_available = asks
asked, seen = [], []
for name in {started}:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):
        runpy.run_module("bench." + name, run_name="__main__")
        continue  # it has no options
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        seen.append(name)
print(asked, seen)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert done.stdout == "[] ['gpu', 'report']\n", done.stderr


def test_a_bench_that_starts_a_process_tells_why_it_failed():
    from bench import output_of

    script = "import sys, time; print('no nvcc', file=sys.stderr, flush=True); time.sleep({}); sys.exit(3)"
    for seconds, why in ((0, "exit status 3"), (60, "timed out")):
        with pytest.raises(RuntimeError, match=rf"{why}(.*\n)+no nvcc"):
            output_of([sys.executable, "-c", script.format(seconds)], timeout=60 if not seconds else 5)
    assert output_of([sys.executable, "-c", "print(7)"], timeout=60) == "7\n"
    hidden = [name for name in MODULES if "capture_output" in (FOLDER / f"{name}.py").read_text()]
    assert hidden == [], "output_of tells the reason of a failure"


def test_an_empty_name_of_timms_checkout_is_none_and_a_wrong_one_is_rejected(tmp_path, monkeypatch, capsys):
    from bench import parser

    def checkout(*words):
        return parser("a bench", "", timm=True, hide_gpus=False).parse_args(words).timm

    monkeypatch.setenv("TIMM", "")
    assert checkout() is None
    for words in (["--timm", ""], ["--timm", str(tmp_path)]):
        with pytest.raises(SystemExit):
            checkout(*words)
        assert f"--timm: no train.py in {words[1]!r}: name a clone of timm's" in capsys.readouterr().err
    (tmp_path / "train.py").touch()
    monkeypatch.setenv("TIMM", str(tmp_path))
    assert checkout() == tmp_path


def test_the_processor_time_of_a_launch_includes_processes_that_nobody_waits_for(tmp_path):
    """As the guard of a rank."""
    from bench.startup import children, cpu_seconds

    work = "import time\nwhile time.process_time() < 1: pass"
    start = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {work!r}], start_new_session=True)"
    )
    before = children()
    assert cpu_seconds([sys.executable, "-c", start], tmp_path) > 1
    assert children() == before


def test_a_case_that_fails_leaves_the_rows_before_it(tmp_path, monkeypatch):
    from bench import input as photos
    from bench import optim, rows

    def fails(*_):
        raise ModuleNotFoundError("deepspeed")

    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(optim, "in_turns", _row)
    monkeypatch.setitem(optim.OVER_RANKS, "zero1", fails)
    monkeypatch.setattr(
        photos, "index_in_turns", lambda case, *_: _row(case) if case[6:] == "tar" else fails()
    )
    for bench, first, second in ((optim, "lars", "zero1"), (photos, "index-tar", "index-folder")):
        monkeypatch.setattr(sys, "argv", ["bench", "--cases", first, second])
        with pytest.raises(ModuleNotFoundError):
            bench.main()
        name = bench.__name__.removeprefix("bench.")
        assert [line["case"] for line in rows.read(name)] == [first]


def test_rows_of_photos_of_a_file_are_cases_of_their_own(tmp_path, monkeypatch):
    from PIL import Image

    from bench import input as photos
    from bench import rows

    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for number in range(2):
            image = tmp_path / f"{number}.jpg"
            Image.new("RGB", (300, 280), (90 * number, 0, 0)).save(image)
            tar.add(image, image.name)
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    words = ["--cases", "train", "--rounds", "1", "--photos", str(tmp_path / "p.tar")]
    monkeypatch.setattr(sys, "argv", ["input", *words])
    photos.main()
    case, command = "train, photos of p.tar", "python -m bench.input --cases train --rounds 1 --photos p.tar"
    assert [(line["case"], line["command"]) for line in rows.read("input")] == [
        (case, command),
        (f"difference of {case} to torchvision's pixels, mean absolute", command),
    ]


def test_the_first_round_of_an_index_warms_up(tmp_path, monkeypatch):
    from bench import input as photos

    times = iter([9.0, 9.0, 1.0, 2.0, 1.0, 2.0])
    monkeypatch.setattr(photos, "FILES", 100)
    monkeypatch.setattr(photos, "processor_ms", lambda read: next(times))
    row = photos.index_in_turns("index-folder", tmp_path / "files", 2, "")
    assert (row.n, row.ratio_low, row.ratio_high) == (2, 2.0, 2.0)


@pytest.mark.parametrize("micro", [32, 128])
def test_noise_scale_measures_every_second_step(micro, monkeypatch):
    from bench.noise_scale import NoiseMonitor, stepper

    measured = []
    after_step = NoiseMonitor.after_step
    monkeypatch.setattr(
        NoiseMonitor, "after_step", lambda self, done: measured.append(list(after_step(self, done))) or []
    )
    step = stepper(micro, model=dict(name="cifar_resnet8"))
    for _ in range(4):
        step()
    assert [len(rows) for rows in measured] == [0, 2, 0, 2]


def test_turns_of_the_loop_and_a_peer():
    from bench.peers import Job, by_hand
    from bench.turns import in_turns

    ours, theirs = in_turns(Job("cifar_resnet8", 8, 4, 1), "ddp", [by_hand], rounds=1)
    assert len(ours) == len(theirs) == 1


def test_a_checkpoint_is_measured_on_one_thread(monkeypatch):
    from bench import checkpoint

    threads, written, before = [], [], torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(
        checkpoint, "seconds_added", lambda *_: threads.append(torch.get_num_threads()) or [1.0]
    )
    monkeypatch.setattr(checkpoint, "leave_process_group", lambda: None)
    monkeypatch.setattr(checkpoint.rows, "write", lambda rows, name: written.extend(rows))
    monkeypatch.setattr(sys, "argv", ["checkpoint", "--rounds", "1", "--batch-size", "2"])
    checkpoint.main()
    torch.set_num_threads(before)
    assert threads == [1]
    assert [row.command for row in written] == ["python -m bench.checkpoint --rounds 1 --batch-size 2"]


def test_checkpoint(tmp_path):
    from bench.checkpoint import seconds_added

    options = SimpleNamespace(model="cifar_resnet8", batch_size=2, image_size=32, seconds=0, rounds=1)
    assert len(seconds_added(options, torch.device("cpu"), tmp_path)) == 1


def test_hessian():
    from bench.hessian import network

    assert network(steps=1, images=2)


@pytest.mark.parametrize(
    ("words", "case"),
    [([], "product"), (["--images", "16"], "product"), (["--images", "8"], "product, images=8")],
)
def test_rows_of_the_hessian_of_other_sizes_are_cases_of_their_own(words, case, monkeypatch):
    from bench import hessian

    written = []
    monkeypatch.setattr(hessian, "network", lambda steps, images: (None, []))
    monkeypatch.setattr(hessian, "product", lambda *_, kept, command: _row("product"))
    monkeypatch.setattr(hessian.rows, "write", lambda rows, name: written.extend(rows))
    monkeypatch.setattr(sys, "argv", ["hessian", "--pyhessian", "x", "--cases", "product", *words])
    hessian.main()
    assert [row.case for row in written] == [case]


GPU_CASES = [
    "matrix",
    "resnet50",
    "vit",
    "optim",
    "noise_scale",
    "memory",
    "ghost",
    "time_to_accuracy",
    "curve",
    "batch_size",
    "arithmetic",
]


def test_every_case_of_a_gpu_is_rehearsed_and_what_may_fail_late_comes_last():
    from bench.gpu import CASES
    from bench.gpu_steps import ARITHMETIC

    assert list(CASES) == GPU_CASES
    late = ["deterministic" in name or "compiled" in name for name in ARITHMETIC]
    assert late == sorted(late) and "compiled" in list(ARITHMETIC)[-1]


@pytest.mark.slow
@pytest.mark.timeout(900)  # some train or compile a real network
@pytest.mark.parametrize("case", GPU_CASES)
def test_gpu_rehearsed_on_a_cpu(case):
    from bench.gpu import CASES
    from bench.gpu_setting import Setting

    setting = Setting("cpu", tiny=True)
    rows = list(CASES[case][0](setting))
    assert rows and all(row.ours > 0 for row in rows if "does not shrink" not in row.case)
    assert setting.failed == []


def test_cublas_is_told_of_its_workspace_before_torch_is_imported():
    code = """
import os, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.exit(os.environ["CUBLAS_WORKSPACE_CONFIG"])

sys.meta_path.insert(0, Finder())
import bench.gpu
"""
    environment = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parent, env=environment, capture_output=True, text=True
    )
    assert done.stderr == ":4096:8\n"


def test_the_minutes_on_a_gpu_count_from_the_start_of_the_process(monkeypatch):
    from bench import gpu

    settings = []
    monkeypatch.setattr(gpu, "measure", lambda setting, cases: settings.append(setting))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["gpu", "--minutes", "7"])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert end.value.code is None and settings[0].ends == gpu.STARTED + 420


def _row(case):
    from bench import rows

    return rows.single("gpu", case, [1.0], unit="s", command="")


def test_on_a_gpu_machine_a_case_that_fails_is_named_and_the_others_are_measured(monkeypatch, capsys):
    from bench import gpu

    def breaks(setting):
        yield _row("before")
        raise ValueError("broken")

    def refused(setting):
        raise RecipeError("no data")

    def good(setting):
        yield _row("after")

    cases = {"breaks": (breaks, 0), "refused": (refused, 0), "long": (good, 1e9), "good": (good, 0)}
    monkeypatch.setattr(gpu, "CASES", cases)
    setting = gpu.Setting("cpu", tiny=True, ends=time.monotonic() + 1e6)
    gpu.measure(setting, cases)
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert setting.failed == ["breaks"]
    assert said == [
        "gpu before: 1 s (n=1)",
        "breaks: not measured, ValueError: broken",
        "refused: not measured, no data",
        "long: not measured, no time left",
        "gpu after: 1 s (n=1)",
    ]


def test_a_signal_during_a_case_of_a_gpu_ends_the_command(monkeypatch, capsys):
    from bench import gpu
    from bench.peers import Job
    from bench.turns import in_turns

    def signals(job):
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            yield

    def stopped(setting):
        in_turns(Job("cifar_resnet8", 8, 4, 1), "ddp", [signals], rounds=4)
        yield _row("stopped")

    monkeypatch.setattr(gpu, "CASES", {"stopped": (stopped, 0), "next": (lambda setting: [_row("next")], 0)})
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny"])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    said = capsys.readouterr().out
    assert end.value.code == 75 and said.endswith("stopped by a signal: the rest is not measured\n")
    assert "next" not in said


def test_on_a_gpu_machine_a_peer_that_fails_is_named_and_the_others_are_measured(
    monkeypatch, capsys, tmp_path
):
    from bench import gpu_peers
    from bench.gpu_setting import Setting
    from bench.peers import Job, by_hand

    def without_compiler(job):
        raise OSError("no nvcc")
        yield

    (tmp_path / "train.py").write_text("raise ImportError('too old')")
    more = {"accelerate loop": by_hand, "DeepSpeed loop": without_compiler}
    setting = Setting("cpu", tiny=True, timm_checkout=tmp_path)
    measured = list(gpu_peers._beside(setting, Job("cifar_resnet8", 8, 4, 1), "title", "resnet50", more))
    assert [row.peer_name for row in measured] == ["plain loop", "accelerate loop"]
    said = capsys.readouterr().out
    assert "DeepSpeed loop: not measured, OSError: no nvcc" in said
    assert "timm train.py: not measured, ImportError: too old" in said


def test_arithmetic_that_fails_or_has_no_time_leaves_the_others(monkeypatch, capsys):
    from bench import gpu_steps
    from bench.gpu_setting import Setting

    def turns(job, engine, others, rounds, **changes):
        if changes.get("deterministic") and "channels_last" not in changes:
            raise RuntimeError("no such algorithm")
        return [[1.0]]

    monkeypatch.setattr(gpu_steps, "in_turns", turns)
    monkeypatch.setattr(gpu_steps, "free_memory", lambda: None)
    setting = Setting("cpu", tiny=True, ends=time.monotonic() + 100)
    measured = [row.case.partition(": ")[2] for row in gpu_steps.arithmetic(setting)]
    assert measured == list(gpu_steps.ARITHMETIC)[:4]
    assert setting.failed == ["arithmetic, bf16, channels last, deterministic=true"]
    assert "arithmetic, bf16, channels last, compiled: not measured, no time left" in capsys.readouterr().out

    short = Setting("cpu", tiny=True, ends=time.monotonic() + 35)
    measured = [row.case.partition(": ")[2] for row in gpu_steps.arithmetic(short)]
    assert measured == ["bf16", "bf16, channels last"]


def test_optimizer_steps_on_a_gpu_machine_rehearsed_and_one_that_fails_leaves_the_others(monkeypatch):
    from bench import gpu_steps, optim
    from bench.gpu_setting import Setting

    def missing(model):
        raise AttributeError("Muon")

    without_muon = optim.CASES["muon-torch"]._replace(peers=[missing])
    monkeypatch.setitem(optim.CASES, "muon-torch", without_muon)
    setting = Setting("cpu", tiny=True)
    measured = list(gpu_steps.optimizers(setting))
    assert setting.failed == ["optim, muon-torch"]
    assert {row.case.partition(": ")[2]: row.peer_name for row in measured} == {
        "lars": "timm Lars, faster path",
        "lamb": "timm Lamb, faster path",
        "lars-fused-sgd": "torch SGD fused",
        "lamb-fused-adamw": "torch AdamW fused",
        "adamw": "torch AdamW, faster path",
        "muon": "timm Muon",
        "muon-bf16": "torch Muon",
    }
    assert all(row.ours > 0 and row.peer > 0 and row.bench == "gpu" for row in measured)


def test_the_cost_of_the_noise_scale_on_a_gpu_machine_rehearsed():
    from bench.gpu_setting import Setting
    from bench.gpu_steps import noise

    setting = Setting("cpu", tiny=True)
    assert [row.case.partition(": ")[2] for row in noise(setting)] == [
        "accumulated, every step",
        "split, every 20 steps",
    ]
    assert setting.failed == []


def test_what_measuring_costs_is_spread_over_the_steps():
    from bench.noise_scale import costs

    taken = itertools.cycle([10.0, 14.0])
    assert costs(lambda: None, 4, lambda step: next(taken), 2) == ([11.0, 11.0], [10.0, 10.0])


def test_memory_on_a_gpu_is_measured_after_both_sides_have_started(monkeypatch):
    from bench import gpu_steps
    from bench.gpu_setting import Setting

    ran = []

    def peak(work):
        ran.append("peak of")
        work()
        return 1.0

    monkeypatch.setattr(gpu_steps, "in_turns", lambda *_, **__: ran.append("ours"))
    monkeypatch.setattr(gpu_steps, "by_hand", lambda job: iter([ran.append("plain"), None]))
    monkeypatch.setattr(gpu_steps, "_peak", peak)
    gpu_steps.memory(Setting("cpu", tiny=True))
    assert ran == ["ours", "plain", "peak of", "ours", "peak of", "plain"]


def test_on_a_gpu_machine_both_curves_come_before_the_micro_batches(monkeypatch):
    from bench import gpu_curves
    from bench.gpu_setting import Setting

    points = []

    def turns(job, engine, others, rounds, micro_batch_size, bn_batch_size):
        points.append((job.model, job.micro_batch_size, micro_batch_size))
        return [[float(job.micro_batch_size)]]

    monkeypatch.setattr(gpu_curves, "in_turns", turns)
    monkeypatch.setattr(gpu_curves, "free_memory", lambda: None)
    assert list(gpu_curves.batch_size(Setting("cpu", tiny=False)))
    whole = [(model, size, size) for model, sizes in gpu_curves.SIZES.items() for size in sizes]
    assert (
        points[: len(whole)] == whole and whole[0][0] == "resnet50" and whole[-1] == ("alexnet", 4096, 4096)
    )
    assert {point[:2] for point in points[len(whole) :]} == {("resnet50", 1024), ("alexnet", 4096)}


def test_on_a_gpu_machine_the_curves_look_at_the_clock(capsys):
    from bench.gpu_accuracy import curve
    from bench.gpu_curves import batch_size
    from bench.gpu_setting import Setting

    over = Setting("cpu", tiny=True, ends=time.monotonic())
    assert [*batch_size(over), *curve(over)] == []
    said = capsys.readouterr().out
    assert "alexnet 67x67, batch 2, 2 images at once: not measured, no time left" in said
    assert "batch 32, linear rule, warm-up, seed 0: not measured, no time left" in said


def test_the_curve_on_a_gpu_machine_rehearsed():
    from bench.gpu_accuracy import curve
    from bench.gpu_setting import Setting

    setting = Setting("cpu", tiny=True)
    measured = list(curve(setting))
    assert setting.failed == [] and len(measured) == 4
    assert all(0 < row.ours <= 100 and row.unit == "% error" for row in measured)


def test_a_curve_on_a_gpu_machine_that_is_cut_off_has_every_batch(monkeypatch):
    """One seed at all batches comes before the next, each arm with the rate of its rule, in one pass a step;
    a run that diverges keeps its place.
    """
    from bench import accuracy_peers, gpu_accuracy
    from bench.gpu_setting import Setting
    from lbtrain.plan.scaling import peak_lr

    runs = []

    def ours(recipe):
        runs.append(recipe)
        if recipe.batch_size == 16384:
            raise Diverged("nan")
        return accuracy_peers.Outcome(errors=[(30.0, 1.0)])

    monkeypatch.setattr(gpu_accuracy, "ours", ours)
    setting = Setting("cpu", tiny=False)
    measured = list(gpu_accuracy.curve(setting))
    assert setting.failed == [] and len(measured) == 24
    assert [row.ours for row in measured[:6]] == [30.0] * 6 and math.isnan(measured[6].ours)
    assert [(run.seed, run.batch_size) for run in runs[::2]] == [
        (seed, size) for seed in range(3) for size in (512, 2048, 8192, 16384)
    ]
    assert [peak_lr(run) for run in runs[0:8:2]] == pytest.approx([0.1616 * 2**k for k in (2, 4, 6, 7)])
    assert [peak_lr(run) for run in runs[1:8:2]] == pytest.approx(
        [0.1135 * (size / 4096) ** 0.5 for size in (512, 2048, 8192, 16384)]
    )
    assert {run.optimizer.name for run in runs[1::2]} == {"muon"}
    assert {make_plan(run, 1).split.accumulation for run in runs[:8]} == {1}


def test_time_to_accuracy_on_a_gpu_starts_the_device_first_and_keeps_an_error_that_missed(monkeypatch):
    from bench import accuracy_peers, gpu_accuracy
    from bench.gpu_setting import Setting

    durations = []

    def ours(recipe):
        durations.append(str(recipe.duration))
        return accuracy_peers.Outcome(errors=[(9.0, 10.0), (6.5, 20.0), (6.6, 30.0)])

    monkeypatch.setattr(gpu_accuracy, "ours", ours)
    [row] = gpu_accuracy.time_to_accuracy(Setting("cpu", tiny=False))
    assert durations == ["2it", "30ep"]
    assert (row.ours, row.unit) == (6.5, "%") and "not reached in 30ep, lowest top-1 error" in row.case


def test_the_share_of_a_pass_that_does_not_shrink():
    from bench.gpu_curves import _fixed_share

    seconds = {size: 0.02 + 0.001 * size for size in (32, 64, 256)}
    row = _fixed_share("x", {size: size / taken for size, taken in seconds.items()})
    assert row.ours == pytest.approx(0.02 / (0.02 + 0.032))


def test_a_process_tells_its_own_peak_of_memory_and_not_its_parents():
    from bench.train import _peak

    held = torch.ones(2 << 28)  # 2 GiB of this process, more than the small one needs
    assert 100 < _peak("plain loop") < held.nbytes / 2**20


class _Peer:
    """Stands in for PyHessian: `products` eigenvalues that are off by `off`."""

    products = 7

    def __init__(self, true, off):
        self.found = [value * (1 + off) for value in true]

    def eigenvalues(self, tolerance):
        return self.found


@pytest.mark.parametrize("off", [0.0005, 0.002])
def test_a_peer_gives_rows_if_it_agrees_and_none_if_it_never_does(off, monkeypatch, tmp_path):
    from bench import hessian
    from lbtrain.analysis import Objective, top_eigenvalues
    from tests.unit.analysis.curvatures import small_batches, small_net

    model, batches = small_net().eval(), small_batches(2)
    true = top_eigenvalues(Objective(model, hessian.loss, batches), hessian.TOP, tolerance=1e-6).values
    monkeypatch.setattr(hessian, "Peer", lambda *_: _Peer(true, off))
    if off > hessian.ACCURACY:
        with pytest.raises(
            RuntimeError, match=r"PyHessian is off by 0\.002 at its tightest tolerance, 1e-06: no row"
        ):
            hessian.eigenvalues(tmp_path, model, batches, command="")
        return
    time, products = hessian.eigenvalues(tmp_path, model, batches, command="")
    assert (time.case, time.unit, time.target, time.n) == ("five eigenvalues", "s", "<=0.5", hessian.ROUNDS)
    assert (products.peer, products.peer_name) == (
        7,
        "PyHessian, tolerance 0.01",
    ) and hessian.TOP <= products.ours <= 67


TIMM_SCRIPT = """
import argparse
import timm.models
from timm.data import create_dataset

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--data-dir")
parser.add_argument("--lr", type=float)
options, _ = parser.parse_known_args()
assert options.lr == 0.1616 * 4 / 128
timm.models.create_model(options.model, drop_rate=0.0, num_classes=10)
for train in ("train", "validation"):
    images = create_dataset("torch/cifar10", root=options.data_dir, split=train)
    images.transform = lambda image: image
    assert len(images) == 20 and images[0][0].size == (32, 32)
print("Train: 0 [   0/5 (  0%)]  Loss: 2.0 (2.0)  Time: 0.1s  LR: 5.0e-03  Data: 0.090 (0.090)")
print("Train: 0 [   4/5 (100%)]  Loss: 2.0 (2.0)  Time: 0.1s  LR: 5.0e-03  Data: 0.001 (0.002)", flush=True)
print("Test: [   0/4]  Time: 0.1 (0.1)  Loss: 2.0 (2.0)  Acc@1: 100.000 (100.000)  Acc@5: 100.0 (100.0)")
print("Test: [   4/4]  Time: 0.1 (0.1)  Loss: 2.0 (2.0)  Acc@1:  0.000 ( 25.000)  Acc@5: 100.0 (100.0)")
"""
"""Builds the network and reads the images as timm's train.py does, and logs in its format."""


def test_time_to_accuracy_rehearsed_on_forty_images(tmp_path, monkeypatch, capsys):
    """All sides come to an error of 100 %, and none to one below 0."""
    from bench import accuracy

    recipe = _forty_images(tmp_path / "data", monkeypatch)
    accuracy.check(recipe)
    rounds = list(accuracy.rounds_of(recipe, 1, None))
    found = accuracy.compared("title", 100.0, 1, "a command", rounds)
    assert [(row.unit, row.n) for row in found] == [("s", 1), ("images/s", 1), ("share of the time", 1)]
    assert 0 < found[2].ours < 1 and 0 < found[2].peer < 1
    never = accuracy.compared("title", -1.0, 1, "a command", rounds)
    assert [row.unit for row in never] == ["images/s", "share of the time"], "rates are of the whole run"
    assert "lbtrain: 0 of 1 runs came to an error of -1 %; lowest: " in capsys.readouterr().out


def _outcome(recipe):
    from bench.accuracy_peers import Outcome

    return Outcome(errors=[(20.0, 1.0)], images=10, seconds=2.0, loading=1.0)


def test_a_peer_that_fails_in_time_to_accuracy_is_named_and_the_other_is_measured(
    tmp_path, monkeypatch, capsys
):
    from bench import accuracy, rows

    tried = []

    def fails_later(checkout, recipe):
        tried.append(recipe.seed)
        if recipe.seed == 1:
            raise RuntimeError("timm's train.py ended with 1")
        return _outcome(recipe)

    (tmp_path / "train.py").touch()
    for name, loop in {"ours": _outcome, "plain": _outcome, "with_timm": fails_later}.items():
        monkeypatch.setattr(accuracy, name, loop)
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["accuracy", "--timm", str(tmp_path), "data.root=/some/where"])
    accuracy.main()
    found = rows.read("accuracy")
    assert {(line["peer_name"], line["n"]) for line in found} == {(accuracy.PLAIN, "3")} and tried == [0, 1]
    assert (
        "timm train.py: not measured, RuntimeError: timm's train.py ended with 1" in capsys.readouterr().out
    )
    assert {line["command"] for line in found} == {
        "python -m bench.accuracy --error 25 --seeds 3 data.root=DIR --timm DIR"
    }


def test_rounds_to_accuracy_that_are_done_are_kept_where_a_later_one_fails(tmp_path, monkeypatch):
    from bench import accuracy, rows

    def diverges(recipe):
        if recipe.seed == 1:
            raise Diverged("nan")
        return _outcome(recipe)

    monkeypatch.setattr(accuracy, "ours", diverges)
    monkeypatch.setattr(accuracy, "plain", _outcome)
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.delenv("TIMM", raising=False)
    monkeypatch.setattr(sys, "argv", ["accuracy"])
    with pytest.raises(Diverged):
        accuracy.main()
    cases = [(line["case"].split(", one thread")[1], line["n"]) for line in rows.read("accuracy")]
    assert cases == [(f", 1 of 3 seeds{of}", "1") for of in ("", ": whole run", ": loading")]


def test_a_case_of_time_to_accuracy_says_what_differs_from_its_recipe():
    from bench.accuracy import RECIPE, title_of

    recipe = load_recipe(RECIPE)
    published = recipe.with_overrides(["duration=6ep", "precision=fp32", "data.root=/some/where"])
    title = "CIFAR-10 to 30 % error, cifar_resnet8, batch 128, 6ep, fp32, one thread"
    assert title_of(published, 30) == title
    other = published.with_overrides(
        ["data.train_examples=1280", "schedule.base_lr=0.9", "evaluate_every=3ep"]
    )
    assert title_of(other, 30).removeprefix(title).removeprefix(", ").split(", ") == [
        "data.train_examples=1280",
        "schedule.base_lr=0.9",
        "evaluate_every=3ep",
    ]


def test_timms_train_py_takes_part_in_time_to_accuracy(tmp_path, monkeypatch):
    from bench import accuracy_peers

    recipe = _forty_images(tmp_path / "data", monkeypatch)
    script = tmp_path / "train.py"
    script.write_text(TIMM_SCRIPT)
    outcome = accuracy_peers.with_timm(tmp_path, recipe)
    assert (outcome.images, outcome.loading) == (5 * 4, 5 * 0.002)
    assert [error for error, _ in outcome.errors] == [75.0] and outcome.seconds_to(75.0) == outcome.seconds

    script.write_text("raise SystemExit('no such option')")
    with pytest.raises(RuntimeError, match=r"ended with 1:\n(.*\n)*no such option"):
        accuracy_peers.with_timm(tmp_path, recipe)


def test_timms_train_py_validates_on_the_images_that_lbtrain_validates_on(tmp_path, monkeypatch):
    """Pixels at the border too: train.py enlarges images and crops them, if it is not told otherwise."""
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    from bench import accuracy_peers

    recipe = _forty_images(tmp_path, monkeypatch)
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    parser = argparse.ArgumentParser()
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--input-size", type=int, nargs=3)
    for name in ("--mean", "--std"):
        parser.add_argument(name, type=float, nargs=3)
    options, _ = parser.parse_known_args(accuracy_peers.timm_options(recipe))
    transform = create_transform(**resolve_data_config(vars(options)), is_training=False)
    info = dataset_info(recipe.data)
    own = (pixels - np.array(info.mean)) / np.array(info.std)
    np.testing.assert_allclose(transform(Image.fromarray(pixels)).permute(1, 2, 0), own, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["optimizer.name=lamb"], r"the peers do not follow optimizer\.name"),
        (["schedule.warmup=2ep"], r"the peers do not follow schedule\.warmup"),
        (["seed=7"], r"seed: the rounds have the seeds from 0 on; choose their number with --seeds"),
        (["batch_size=256"], r"over all 256 images: add bn_batch_size=256"),
        (["precision=auto"], r"precision=auto: the peers know fp32 and bf16"),
        (["duration=500it"], r"duration=500it: the peers count whole epochs"),
        (["evaluate_every=0.25ep"], r"evaluate_every=0.25ep: the peers count whole epochs"),
        (["data.train_examples=4096"], r"leave out --timm"),
    ],
)
def test_what_the_peers_would_not_follow_is_rejected(words, error):
    from bench.accuracy import check

    with pytest.raises(RecipeError, match=error):
        check(load_recipe("cifar10/resnet8").with_overrides(words), timm_takes_part=True)


def _forty_images(root, monkeypatch):
    """cifar10/resnet8 on twenty images to train on and twenty to score, which it writes."""
    from PIL import Image

    forty = replace(registry._FACTS["cifar10"], train_examples=20, eval_examples=20)
    monkeypatch.setitem(registry._FACTS, "cifar10", forty)
    for split, label in itertools.product(("train", "test"), range(10)):
        folder = root / split / str(label)
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), (25 * label, 0, 0)).save(folder / f"{number}.png")
    monkeypatch.setenv("LBTRAIN_DATA", str(root))
    words = ["batch_size=4", "bn_batch_size=4", "duration=2ep", "validation_batch_size=4"]
    return load_recipe("cifar10/resnet8").with_overrides(words)
