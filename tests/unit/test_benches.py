"""The benches can still be run. Their calls are held against the library by mypy; here each takes its first
step, on something tiny.
"""

import argparse
import ast
import importlib
import itertools
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lbtrain.data import registry
from lbtrain.data.registry import dataset_info
from lbtrain.errors import RecipeError
from lbtrain.launch.world import detect_world, start_process_group
from lbtrain.recipe.files import load_recipe

FOLDER = Path(__file__).parents[2] / "bench"
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__"))


@pytest.fixture(scope="module", autouse=True)
def alone():
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


@pytest.mark.parametrize("micro", [32, 128])
def test_noise_scale_measures_every_second_step(micro, monkeypatch):
    from bench.noise_scale import NoiseMonitor, stepper

    measured = []
    after_step = NoiseMonitor.after_step
    monkeypatch.setattr(
        NoiseMonitor, "after_step", lambda self, done: measured.append(list(after_step(self, done))) or []
    )
    step = stepper(micro, model="cifar_resnet8")
    for _ in range(4):
        step()
    assert [len(rows) for rows in measured] == [0, 2, 0, 2]


def test_turns_of_the_loop_and_a_peer():
    from bench.peers import Job, by_hand
    from bench.turns import in_turns

    ours, theirs = in_turns(Job("cifar_resnet8", 8, 4, 1), "ddp", [by_hand], rounds=1)
    assert len(ours) == len(theirs) == 1


def test_checkpoint(tmp_path):
    from bench.checkpoint import seconds_added

    options = SimpleNamespace(model="cifar_resnet8", batch_size=2, image_size=32, seconds=0, rounds=1)
    assert len(seconds_added(options, torch.device("cpu"), tmp_path)) == 1


def test_hessian():
    from bench.hessian import network

    assert network(steps=1, images=2)


GPU_CASES = ["matrix", "resnet50", "arithmetic", "memory", "optim", "ghost", "time_to_accuracy", "batch_size"]


def test_every_case_of_a_gpu_is_rehearsed():
    from bench.gpu import CASES

    assert sorted(CASES) == sorted(GPU_CASES)


@pytest.mark.slow
@pytest.mark.timeout(900)  # some train or compile a real network
@pytest.mark.parametrize("case", GPU_CASES)
def test_gpu_rehearsed_on_a_cpu(case):
    from bench.gpu import CASES
    from bench.gpu_steps import Setting

    rows = list(CASES[case](Setting("cpu", tiny=True)))
    assert rows and all(row.ours > 0 for row in rows if "does not shrink" not in row.case)


@pytest.mark.slow
def test_on_a_gpu_machine_a_peer_that_fails_is_named_and_the_others_are_measured(monkeypatch, capsys):
    from bench import gpu_steps

    def without_compiler(job):
        raise OSError("no nvcc")
        yield

    monkeypatch.setattr(gpu_steps, "deepspeed_loop", without_compiler)
    monkeypatch.setattr(gpu_steps, "accelerate_loop", gpu_steps.by_hand)
    measured = gpu_steps.resnet50(gpu_steps.Setting("cpu", tiny=True))
    assert [row.peer_name for row in measured] == ["plain loop", "accelerate loop"]
    assert "DeepSpeed loop: not measured, OSError: no nvcc" in capsys.readouterr().out


def test_on_a_gpu_machine_the_curves_look_at_the_clock(capsys):
    from bench.gpu_curves import batch_size
    from bench.gpu_steps import Setting

    assert list(batch_size(Setting("cpu", tiny=True, ends=time.monotonic()))) == []
    assert "alexnet 67x67, batch 2, 2 images at once: not measured, no time left" in capsys.readouterr().out


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
    found = accuracy.measured(recipe, 100.0, 1, "a command", None)
    assert [(row.unit, row.n) for row in found] == [("s", 1), ("images/s", 1), ("share of the time", 1)]
    assert 0 < found[2].ours < 1 and 0 < found[2].peer < 1
    never = accuracy.measured(recipe, -1.0, 1, "a command", None)
    assert [row.unit for row in never] == ["images/s", "share of the time"], "rates are of the whole run"
    assert "lbtrain: 0 of 1 runs came to an error of -1 %; lowest: " in capsys.readouterr().out


def test_timms_train_py_takes_part_in_time_to_accuracy(tmp_path, monkeypatch):
    from bench import accuracy

    recipe = _forty_images(tmp_path / "data", monkeypatch)
    script = tmp_path / "train.py"
    script.write_text(TIMM_SCRIPT)
    outcome = accuracy.with_timm(tmp_path, recipe)
    assert (outcome.images, outcome.loading) == (5 * 4, 5 * 0.002)
    assert [error for error, _ in outcome.errors] == [75.0] and outcome.seconds_to(75.0) == outcome.seconds

    script.write_text("raise SystemExit('no such option')")
    with pytest.raises(RuntimeError, match=r"ended with 1:\n(.*\n)*no such option"):
        accuracy.with_timm(tmp_path, recipe)


def test_timms_train_py_validates_on_the_images_that_lbtrain_validates_on(tmp_path, monkeypatch):
    """Pixels at the border too: train.py enlarges images and crops them, if it is not told otherwise."""
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    from bench import accuracy

    recipe = _forty_images(tmp_path, monkeypatch)
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    parser = argparse.ArgumentParser()
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--input-size", type=int, nargs=3)
    for name in ("--mean", "--std"):
        parser.add_argument(name, type=float, nargs=3)
    options, _ = parser.parse_known_args(accuracy.timm_options(recipe))
    transform = create_transform(**resolve_data_config(vars(options)), is_training=False)
    info = dataset_info(recipe.data)
    own = (pixels - np.array(info.mean)) / np.array(info.std)
    np.testing.assert_allclose(transform(Image.fromarray(pixels)).permute(1, 2, 0), own, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["optimizer.name=lamb"], r"the peers do not follow optimizer\.name"),
        (["schedule.warmup=2ep"], r"the peers do not follow schedule\.warmup"),
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
