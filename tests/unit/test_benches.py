"""The benches can still be run. Their calls are held against the library by mypy; here each takes its first step, on something tiny."""

import ast
import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lbtrain.cluster.launch import detect_world, start_process_group

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


@pytest.mark.parametrize(("micro", "every"), [(32, 1), (128, 1), (32, 0)])
def test_noise_scale(micro, every):
    from bench.noise_scale import stepper

    stepper(micro, every, model="cifar_resnet8")()


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


def test_a_peer_that_never_agrees_gives_no_row(monkeypatch, tmp_path):
    from bench import hessian
    from tests.unit.analysis.curvatures import small_batches, small_net

    peer = SimpleNamespace(products=1, eigenvalues=lambda tolerance: [1.0] * hessian.TOP)
    monkeypatch.setattr(hessian, "Peer", lambda *_: peer)
    with pytest.raises(RuntimeError, match="at its tightest tolerance, 1e-06: no row"):
        hessian.products(tmp_path, small_net().eval(), small_batches(2), command="")
