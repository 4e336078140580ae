"""Train a model for some steps twice, sharded by an engine and unsharded, and compare the update of every
layer.

Both sides see the same images and average the same per-rank gradients, so batch norm makes no difference.
Only what the optimizer sees differs: whole layers, or shards. A layer may differ by the tolerance, and by
twice what the unsharded update itself moves where gradients differ by rounding; where rounding is half of
most updates, nothing is compared. Dropout and drop path are switched off.

DeepSpeed's own optimizers are compared with independent implementations of the same definition. torch:muon
trains the matrices alone, since it takes nothing else.
"""

import argparse
import copy
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from lbtrain.console import Console
from lbtrain.errors import RecipeError

from ..kit.command import count, count_or_none, positive, positive_or_zero
from .optimizers import (
    FORMS,
    OTHER_RATE,
    RATES,
    OptimizerChoice,
    check_package,
    freeze_what_it_cannot_train,
    make_optimizer,
)
from .sharding import ENGINES, unsharded, weights_of

EXAMPLES = """
examples:
  lbtrain verify optim --model timm:resnet18 --optimizer lars --zero 1 --world 2
  lbtrain verify optim --model timm:resnet18 --optimizer timm:lars --zero 1
  lbtrain verify optim --model timm:test_vit --optimizer deepspeed:muon --zero 2
  lbtrain verify optim --optimizer torch:adafactor --engine fsdp2
  lbtrain verify optim --optimizer my_package.optim:Sophia --optimizer-args "{rho: 0.04}"
  .venv-colossalai/bin/python -m lbtrain verify optim --engine colossalai       # made by `make colossalai`

exit status: 0 every layer agrees; 1 a layer is off; 2 the combination is not supported (the message says why)
"""


ROUNDING = 1e-6
"""Of a gradient's largest element: what the sums over many images and ranks differ by."""
LOST = 0.5
"""A layer whose update rounding moves so far could be anything."""


class LayerComparison(NamedTuple):
    """The update of one layer: size sharded over size unsharded, and the cosine between the two. `rounding`:
    how much the unsharded update itself moves where the gradients move by rounding alone (such as the update
    of a bias whose true gradient is zero, which Adam makes as large as any).
    """

    name: str
    ratio: float
    cosine: float
    rounding: float = 0.0

    @property
    def difference(self) -> float:
        return max(abs(self.ratio - 1), 1 - self.cosine)

    def off(self, tolerance: float) -> bool:
        rounding = self.rounding if self.rounding < math.inf else 0.0  # of an update of 0 it excuses nothing
        return not self.difference <= max(tolerance, 2 * rounding)


Answer = list[LayerComparison] | str


@dataclass(frozen=True)
class Question:
    """What to compare; see --help."""

    choice: OptimizerChoice
    model: str = "timm:resnet18"
    engine: str = "deepspeed"
    stage: int = 1
    world: int = 2
    steps: int = 3
    batch_size: int = 4
    image_size: int = 64
    tolerance: float = 1e-2
    rows: int = 15

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Question":
        """Raises ValueError for a stage that the engine does not have."""
        given = {name: value for name, value in vars(options).items() if name in cls.__dataclass_fields__}
        choice = OptimizerChoice(options.optimizer, options.optimizer_args, options.lr, options.weight_decay)
        _, stages, _ = ENGINES[options.engine]
        stage = min(1, stages[-1]) if options.zero is None else options.zero
        if stage not in stages:
            known = ", ".join(map(str, stages)) if stages[-1] else "none: leave --zero out"
            raise ValueError(f"--engine {options.engine} --zero {stage}: its stages are {known}")
        return cls(choice, stage=stage, **given)

    @property
    def sharded(self) -> str:
        return ENGINES[self.engine][2].format(stage=self.stage)


def add_arguments(commands: Any) -> None:
    """Add the command `optim` to a parser."""
    parser = commands.add_parser(
        "optim", help="compare an optimizer sharded and unsharded, layer by layer", description=__doc__,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=lambda options: verify(Question.of(options)))
    add, shown = parser.add_argument, "(default: %(default)s)"
    add("--model", default=Question.model, help=f"timm:NAME, any classification model of timm {shown}")
    add("--optimizer", default="lars", help=f"{FORMS} {shown}")
    add("--optimizer-args", default="{}", help=f"further settings of it, as {{key: value}} {shown}")
    add("--engine", default=Question.engine, choices=ENGINES, help=f"what shards it {shown}")
    add("--zero", type=int, help="ZeRO stage: deepspeed 0 to 3, colossalai 1 or 2 (default: 1)")
    add("--world", type=count, default=Question.world, help=f"ranks, processes on this machine {shown}")
    add("--steps", type=count, default=Question.steps, help=f"the compared update is that of all {shown}")
    add("--batch-size", type=count, default=Question.batch_size, help=f"random images per rank {shown}")
    add("--image-size", type=count, default=Question.image_size, help=f"their height and width {shown}")
    add("--lr", type=positive, help=f"learning rate (default: {RATES}, else {OTHER_RATE})")
    add("--weight-decay", type=positive_or_zero, default=1e-4, help=shown)
    add("--tolerance", type=positive, default=1e-2, help=f"largest |ratio - 1| and 1 - cosine {shown}")
    add("--rows", type=count_or_none, default=15, help=f"layers shown, the worst first; 0: all {shown}")


def verify(question: Question) -> int:
    """Compare, print the table, return 0 or 1."""
    layers = compare(question)
    off = [layer for layer in layers if layer.off(question.tolerance)]
    _print(question, layers, len(off))
    return 1 if off else 0


def compare(question: Question) -> list[LayerComparison]:
    """One row a trained layer, the worst first. Raises ValueError for a question that cannot be asked, and
    with the message of what an engine or an optimizer raises.
    """
    [answer] = compare_all([question])
    if isinstance(answer, str):
        raise ValueError(f"{question.sharded} with {question.choice.text} fails: {answer}")
    return answer


def compare_all(questions: Sequence[Question]) -> list[Answer]:
    """Answers questions for the same number of ranks one after another on the same processes, and after one
    that fails on new ones. Each answer is as that of `compare`, or the message of what was raised. Wrong
    arguments raise ValueError before a process starts.
    """
    for question in questions:
        _check(question)
    answers: list[Answer] = []
    while len(answers) < len(questions):
        answers += _until_one_fails(questions[len(answers) :])
    return answers


def _until_one_fails(questions: Sequence[Question]) -> list[Answer]:
    """The answers up to the first failure, which is the last of them: where one rank alone fails, the others
    wait for it, and what they would say to further questions means nothing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mp.spawn(_rank, args=(questions, folder), nprocs=questions[0].world, join=True)
        layers = [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))]
        failures = sorted(folder.glob("*.txt"), key=lambda path: (path.name[:3], path.stat().st_mtime_ns))
        answers: list[Answer] = [
            _worst_first(rows, question.tolerance)
            for rows, question in zip(layers, questions, strict=False)  # a failure leaves later ones out
        ]
        if not failures:
            return answers
        return [*answers[: int(failures[0].name[:3])], failures[0].read_text(encoding="utf-8")]


def _worst_first(rows: Iterable[tuple[str, float, float, float]], tolerance: float) -> list[LayerComparison]:
    """Those that are off before those whose larger difference is rounding."""

    def rank(layer: LayerComparison) -> tuple[bool, float]:
        return not layer.off(tolerance), -math.inf if math.isnan(layer.difference) else -layer.difference

    return sorted((LayerComparison(*row) for row in rows), key=rank)


def _check(question: Question) -> None:
    if question.choice.source == "deepspeed" and question.engine != "deepspeed":
        raise ValueError(f"--optimizer {question.choice.text} exists under --engine deepspeed only")
    if question.engine == "colossalai":
        check_package(
            "colossalai", "run `make colossalai`, then .venv-colossalai/bin/python -m lbtrain verify"
        )
    make_optimizer(question.choice, make_model(question))


def make_model(question: Question) -> nn.Module:
    """Build the model with weights that depend on nothing but its name."""
    import timm

    from lbtrain.nn import without_random_layers  # which registers lbtrain's models with timm

    source, _, name = question.model.partition(":")
    if source != "timm" or not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:3] if name else []
        raise ValueError(
            f"--model {question.model}: write timm:NAME with a model of timm"
            + (f", such as timm:{near[0]}" if near else "")
        )
    torch.manual_seed(0)
    model = without_random_layers(timm.create_model(name, num_classes=10))
    freeze_what_it_cannot_train(question.choice, model)
    return model


def _rank(rank: int, questions: Sequence[Question], folder: Path) -> None:
    """Writes NUMBER.pt for each answer (rank 0), or NUMBER.RANK.txt for a failure, which ends the rank."""
    from lbtrain.launch.world import leave_process_group

    warnings.simplefilter("ignore")  # the libraries' own, once a rank
    world = questions[0].world
    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world), "TORCHDYNAMO_DISABLE": "1"}  # compiling takes minutes here
    torch.set_num_threads(max(1, torch.get_num_threads() // world))
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "meeting"), world), rank=rank, world_size=world,
        timeout=timedelta(minutes=2),
    )  # fmt: skip
    for number, question in enumerate(questions):
        try:
            layers = [tuple(layer) for layer in _layers(question)]
        except Exception as error:  # whatever an engine makes of an optimizer is the answer
            message = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            (folder / f"{number:03}.{rank}.txt").write_text(message, encoding="utf-8")
            os._exit(0)  # closes the connections, so that no rank waits for this one
        if rank == 0:
            torch.save(layers, folder / f"{number:03}.pt")  # plain tuples are loaded without trust
    leave_process_group()


def _layers(question: Question) -> list[LayerComparison]:
    model, loss = make_model(question), partial(_loss, question)
    before = weights_of(model.state_dict(), model)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    expected, disturbed = (
        unsharded(question.choice, copy.deepcopy(model), loss, question.steps, noise)
        for noise in (0.0, ROUNDING)
    )
    train, _, _ = ENGINES[question.engine]
    weights = train(question.choice, model, loss, question.steps, question.stage), expected, disturbed
    if all(torch.equal(each[name], before[name]) for each in weights for name in trained):
        raise RecipeError(f"{question.choice.text} changed no weight, sharded or not: give a higher --lr")
    layers = [_layer(name, *(each[name] - before[name] for each in weights)) for name in trained]
    _check_comparable(layers)
    return layers


def _check_comparable(layers: Sequence[LayerComparison]) -> None:
    """Raises RecipeError where agreement would say nothing."""
    lost = sum(not layer.rounding < LOST for layer in layers)
    if 2 * lost > len(layers):
        raise RecipeError(
            f"rounding alone moves the updates of {lost} of {len(layers)} layers by {LOST:.0%} or more: "
            "compare fewer steps, or a lower rate"
        )


def _layer(name: str, ours: Tensor, expected: Tensor, disturbed: Tensor) -> LayerComparison:
    rounding = _compare(name, disturbed, expected).difference
    return _compare(name, ours, expected)._replace(rounding=rounding)


def _loss(question: Question, model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step * 1000 + dist.get_rank())
    images = torch.randn(
        question.batch_size, 3, question.image_size, question.image_size, generator=generator
    )
    labels = torch.randint(10, (question.batch_size,), generator=generator)
    torch.manual_seed(step * 1000 + dist.get_rank())  # for what a model draws outside of its layers
    return F.cross_entropy(model(images), labels)


def _compare(name: str, ours: Tensor, expected: Tensor) -> LayerComparison:
    a, b = ours.double().flatten(), expected.double().flatten()
    sizes = float(a.norm()), float(b.norm())
    if sizes == (0.0, 0.0):
        return LayerComparison(name, 1.0, 1.0)
    if 0.0 in sizes:
        return LayerComparison(name, 0.0 if sizes[0] == 0 else float("inf"), 0.0)
    return LayerComparison(name, sizes[0] / sizes[1], float(a @ b) / (sizes[0] * sizes[1]))


def _print(question: Question, layers: list[LayerComparison], off: int) -> None:
    shown = layers[: question.rows or None]
    title = (
        f"{question.model}, {question.choice.text}: {question.sharded} on {question.world} ranks "
        f"against unsharded, {question.steps} steps"
    )
    table = Table(title=escape(title), caption=f"{len(shown)} of {len(layers)} layers, the worst first")
    table.add_column("layer")
    for column in ("step size, ratio", "cosine", "rounding", ""):
        table.add_column(column, justify="right")
    for layer in shown:
        mark = "[red]off[/red]" if layer.off(question.tolerance) else "ok"
        table.add_row(layer.name, f"{layer.ratio:.6g}", f"{layer.cosine:.8f}", f"{layer.rounding:.1e}", mark)
    console = Console()
    console.print(table)
    outcome = (
        f"{off} of {len(layers)} layers are off by more than {question.tolerance:g}"
        if off
        else f"all {len(layers)} layers agree"
    )
    console.print(
        f"{outcome} (ratios {min(x.ratio for x in layers):.6g} to {max(x.ratio for x in layers):.6g})"
    )
