"""Where the keys of a recipe act: what a run is made of, in a form that can be compared."""

import contextlib
import json
import multiprocessing
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lbtrain import Recipe
from lbtrain.data import dataset_index
from lbtrain.engines.deepspeed_config import complete_config
from lbtrain.errors import UserError
from lbtrain.evaluate import score
from lbtrain.faults.finite import FiniteCheck
from lbtrain.launch.world import detect_world, start_process_group
from lbtrain.main import _launched
from lbtrain.plan.plan import Plan, make_plan
from lbtrain.plan.precision import set_gpu_arithmetic
from lbtrain.run import build_bare_model, build_engine, run
from lbtrain.tasks import create_task
from lbtrain.techniques import PlannedBatches, Techniques, WeightAverage, create_average
from lbtrain.train import start_phase
from tests.counted import counted_once

CPU = torch.device("cpu")
SMALL = Recipe().vary(
    batch_size=32,
    bn_batch_size=8,
    duration="10ep",
    engine="ddp",
    model=dict(name="cifar_resnet8"),
    data=dict(train_examples=256),
    optimizer=dict(weight_decay=0.01),
    schedule=dict(base_batch_size=16, warmup="1it", decay="cosine"),
)


@contextlib.contextmanager
def process_group_of_one() -> Iterator[None]:
    """As a run has it that no launcher started."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        start_process_group(detect_world())
        yield
        dist.destroy_process_group()


def words(text: str) -> list[str]:
    """Overrides of a line, split where the next key begins."""
    return re.split(r" (?=[a-z_.0-9]+=)", text.strip()) if text.strip() else []


def planned(recipe: Recipe) -> Plan:
    return make_plan(recipe, 1, engine=recipe.engine_under("ddp"), statistics=counted_once(recipe))


def rates(recipe: Recipe) -> list[Any]:
    """The learning rate along the run, and the batch sizes."""
    plan = planned(recipe)
    points = range(0, plan.total_examples, max(1, plan.total_examples // 97))
    return [plan.total_examples, plan.phases, *map(plan.lr, points)]


def numbers(recipe: Recipe) -> str:
    """plan.json, without what is in the recipe itself."""
    return planned(recipe).to_json()


def deepspeed(recipe: Recipe) -> dict[str, Any]:
    """The JSON that DeepSpeed gets for this recipe on two ranks."""
    return complete_config(make_plan(recipe, 2, engine="deepspeed"), recipe.deepspeed.config)


def trained(recipe: Recipe) -> list[Tensor]:
    """Losses, weights and buffers of three steps, the order of the weights in memory, and the average of the
    weights, where there is one. Needs a process group of one.
    """
    losses, model, average = _train(recipe, 3)
    strides = [torch.tensor(weight.stride()) for weight in model.parameters()]
    averaged = average.average.state_dict().values() if average else []
    return [
        tensor.detach().clone() for tensor in (*losses, *model.state_dict().values(), *strides, *averaged)
    ]


def losses(recipe: Recipe, steps: int) -> list[float]:
    """The losses of the first steps of a run."""
    return [float(loss.detach()) for loss in _train(recipe, steps)[0]]


def _train(recipe: Recipe, steps: int) -> tuple[list[Tensor], nn.Module, WeightAverage | None]:
    """As the loop does it: the loss of every micro-batch, the model, and its average."""
    plan = planned(recipe)
    task, model = create_task(recipe, CPU), build_bare_model(recipe, plan, CPU)
    average = create_average(recipe, model)
    engine, _ = build_engine(plan, model, CPU)
    techniques = Techniques(PlannedBatches(plan), average)
    batches = start_phase(plan.phases[0], task, engine, 0)
    engine.model.train()
    losses = []
    for step in range(steps):
        for _ in range(engine.accumulation):
            losses.append(task.loss(engine.model, next(batches)).total)
            engine.backward(losses[-1])
        engine.step(plan.lr(step * recipe.batch_size))
        techniques.after_update(step + 1, plan.ema_decay(plan.phases[0]))
    return losses, model, average


def scored(recipe: Recipe) -> list[Tensor]:
    """The images and labels of a data set's two halves, as training and evaluation get them."""
    task = create_task(recipe, CPU)
    batches = task.batches(start=0, micro_batch_size=2, rank=0, world_size=1)
    scoring = task.eval_source.fetch(task.stream.block(0, 2))
    sizes = torch.tensor([task.known.train_examples, len(task.eval_source)])
    return [*next(batches), *scoring, sizes]


def readable(recipe: Recipe) -> list[Tensor] | str:
    """As `scored`, or the error where an image cannot be read."""
    try:
        return scored(recipe)
    except UserError as error:
        return str(error)


def indexed(recipe: Recipe) -> str:
    """What a data set holds, as the ranks compare it."""
    return dataset_index(recipe.data).fingerprint


def loaders(recipe: Recipe) -> int:
    """How many processes load images."""
    others = set(multiprocessing.active_children())
    batches = create_task(recipe, CPU).batches(start=0, micro_batch_size=2, rank=0, world_size=1)
    next(batches)
    return len(set(multiprocessing.active_children()) - others)


def network(recipe: Recipe) -> list[Any] | str:
    """The layers of a model, and what runs in place of them where it is compiled; or the error."""
    try:
        model = build_bare_model(recipe, planned(recipe), CPU)
    except UserError as error:
        return str(error)
    return [str(model), model._compiled_call_impl is None]


def passes(recipe: Recipe) -> list[int]:
    """How many images each forward pass of an evaluation has."""
    plan, sizes = planned(recipe), []
    model = build_bare_model(recipe, plan, CPU)
    model.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    engine: Any = SimpleNamespace(model=model, rank=0, world_size=1)
    score(plan, create_task(recipe, CPU), engine)
    return sizes


def arithmetic(recipe: Recipe) -> list[Any]:
    """What torch is told on a machine with a GPU."""
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        patch.setattr(torch.cuda, "is_available", lambda: True)
        for name in ("benchmark", "allow_tf32"):
            patch.setattr(cudnn, name, getattr(cudnn, name))
        set_gpu_arithmetic(recipe)
        told = [torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()]
        told += [cudnn.benchmark, cudnn.allow_tf32]
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision(precision)
    return told


def watched(recipe: Recipe) -> str:
    """What the guard beside a rank is told when a recipe is launched."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("lbtrain.faults.watchdog.Watchdog", lambda **words: sys.exit(str(words)))
        _launched(recipe, [], "run")
    return str(ended.value)


def started_twice(recipe: Recipe) -> str:
    """The error of a run that is started, and started again."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            for _ in range(2):
                run(recipe.vary(run_dir=f"{folder}/run"), "run", on_screen=False)
        except UserError as error:
            return str(error).replace(folder, "")
    return "none"


def instances(recipe: Recipe) -> list[Any]:
    """Which images the first step of a detector has, and their sizes."""
    task = create_task(recipe, CPU)
    batch = next(task.batches(start=0, micro_batch_size=recipe.batch_size, rank=0, world_size=1))
    return [*batch.images, batch.indices, batch.pad_to]


def left_behind(recipe: Recipe) -> list[Any]:
    """The rows of a run without what depends on the clock, and the names of its files without their dates."""
    clock = {"seconds", "images_per_sec", "data_wait"}
    with tempfile.TemporaryDirectory() as folder:
        run(recipe.vary(run_dir=folder), "run", on_screen=False)
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        files = {f"{path.parent.name}/{path.name.split('.')[0]}" for path in Path(folder).rglob("*.*")}
        files = {name.removeprefix(Path(folder).name) for name in files}
    return [sorted(files), *({key: row[key] for key in row.keys() - clock} for row in rows)]


def limits(recipe: Recipe) -> list[float]:
    """What the check for losses that are not finite tolerates."""
    engine: Any = SimpleNamespace(model=nn.Linear(1, 1))
    check = FiniteCheck(planned(recipe), SimpleNamespace(), engine, Path(), skipped=0)  # type: ignore[arg-type]
    return [check.left, check.max_overflows, check.min_loss_scale]


def same(one: Any, other: Any) -> bool:
    """Whether two observations agree to the last bit."""
    if not isinstance(one, list):
        return bool(one == other)
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )
