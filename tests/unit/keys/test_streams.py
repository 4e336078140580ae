"""What a run draws and measures, value by value: initial weights, dropout, images per second, data wait."""

import time
from types import SimpleNamespace

import pytest
import torch

from lbtrain import Recipe
from lbtrain.data import dataset_info
from lbtrain.monitors import log_window
from lbtrain.monitors.protocol import MicroStep, StepResult
from lbtrain.runs.checkpoint import Progress
from lbtrain.tasks import Losses, build_model, create_task
from tests.unit.keys.rooms import CPU, SMALL, planned


def initial(recipe: Recipe) -> dict[str, torch.Tensor]:
    return build_model(recipe, dataset_info(recipe.data)).state_dict()


def test_initial_weights_follow_the_seed_and_nothing_else():
    torch.manual_seed(123)
    first = initial(SMALL)
    torch.manual_seed(456)
    again, other = initial(SMALL), initial(SMALL.vary(seed=1))
    drawn = [name for name, weight in first.items() if weight.dim() > 1]
    assert len(drawn) == 8
    for name in drawn:
        assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name]), name
    # Kaiming's normal distribution of these layers, drawn by seed 0: the same on every machine.
    assert first["conv1.weight"].flatten()[:3].tolist() == pytest.approx(CONV1, rel=1e-5)
    assert first["fc.weight"].flatten()[:3].tolist() == pytest.approx(FC, rel=1e-5)


CONV1 = [-0.0619470738, 0.0033437791, 0.0222180784]
FC = [-0.1184912473, 0.0786236674, 0.0246012658]


def masks(recipe: Recipe, *, start: int, count: int, rank: int = 0) -> list[list[float]]:
    """What a layer with dropout would draw for each of the next micro-batches."""
    task = create_task(recipe, CPU)
    batches = task.batches(start=start, micro_batch_size=8, rank=rank, world_size=2)
    return [torch.rand(4).tolist() for _, _ in zip(range(count), batches, strict=False)]


def test_dropout_is_drawn_by_seed_and_position():
    straight = masks(SMALL, start=0, count=4)
    assert masks(SMALL, start=32, count=2) == straight[2:], "after a restart as without one"
    drawn = [*straight, *masks(SMALL, start=0, count=4, rank=1), *masks(SMALL.vary(seed=1), start=0, count=4)]
    assert len({tuple(mask) for mask in drawn}) == 12
    torch.manual_seed(hash((0, 0)))
    assert straight[0] == torch.rand(4).tolist()


@pytest.mark.parametrize(("args", "gamma"), [({}, 0.0), ({"zero_init_last": False}, 1.0)])
def test_the_last_gamma_of_each_block_of_a_cifar_resnet(args, gamma):
    weights = initial(SMALL.vary(model=dict(args=args)))
    last = [weight for name, weight in weights.items() if name.endswith("bn2.weight")]
    others = [weight for name, weight in weights.items() if name.endswith("bn1.weight")]
    assert len(last) == 3 and all(bool((weight == gamma).all()) for weight in last)
    assert len(others) == 4 and all(bool((weight == 1).all()) for weight in others)


def test_images_a_second_and_the_share_of_waiting_by_hand(monkeypatch):
    """Two steps of 32 images on two ranks in 4 seconds of training, one of them waiting; an evaluation
    between them does not count.
    """
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    plan = SimpleNamespace(train_examples=256, world_size=2)
    engine = SimpleNamespace(mean=lambda tensor: tensor, device=CPU, rank=0, world_size=2)
    phase = planned(SMALL.vary(micro_batch_size=16)).phases[0]
    window = log_window.LogWindow(plan, engine, torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]))
    window.own_time._hosts = ["node01", "node02"]  # which the ranks would tell each other
    for loss in (3.0, 1.0):
        with window.waiting():
            now[0] += 0.5
        value = torch.tensor(loss)
        window.before_backward(MicroStep(None, Losses({"loss": value}, 25 * value), 0, phase))
        now[0] += 1.5
        with window.paused():
            now[0] += 60
    (row,) = window.at_log(StepResult(Progress(step=2, examples=64), phase, 0.1))
    assert (row.loss, row.images_per_sec, row.data_wait) == (2.0, 2 * 16 * 2 / 4, 0.25)
    assert (row.train_error, row.parts) == (50.0, {})
    with window.waiting():
        pass
    now[0] += 8
    value = torch.tensor(5.0)
    window.before_backward(MicroStep(None, Losses({"loss": value}), 64, phase))
    (row,) = window.at_log(StepResult(Progress(step=3, examples=96), phase, 0.1))
    assert (row.loss, row.images_per_sec, row.data_wait) == (5.0, 16 * 2 / 8, 0.0), "a window of its own"
    assert row.train_error is None, "mixed images have none"
