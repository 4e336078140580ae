"""Train a model for some steps in float64, on one rank and in one piece, and again under other batch splits;
compare weights, running statistics and outputs layer by layer.

Rounding is about 1e-16 in float64, so that a larger difference is a layer that depends on the batch split.
The runs are made by lbtrain's own plan, engine and ghost batch norm. Dropout, whose draws belong to a
micro-batch, and drop path are switched off.
"""

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.table import Table
from torch import Tensor

from lbtrain import Recipe
from lbtrain.console import Console
from lbtrain.errors import RecipeError

from ..kit.command import count, count_or_none, positive
from .traces import Question, Split, Trace, trained, without_equal_infinities

EXAMPLES = """
examples:
  lbtrain verify model timm:resnet18
  lbtrain verify model timm:vit_tiny_patch16_224 --args "{img_size: 64}"
  lbtrain verify model timm:resnet18 --precision fp32 --steps 5 --lr 0.05    # how rounding grows
  lbtrain verify model timm:efficientnet_b0 --optimizer lars --world 1    # one process, no ranks

exit status: 0 the guarantee holds, or was not judged (fp32); 1 it does not; 2 the model cannot be trained
"""
SCALE = 1e-6
"""Below this size a tensor is compared absolutely: the bias before a batch norm, say, is rounding alone."""


class LayerDifference(NamedTuple):
    """The largest differences of one layer over all splits, relative to the largest number compared.
    `outputs` of the first step (0.0 where they are not in the order of the images), `state` after the last.
    """

    name: str
    kind: str
    outputs: float
    state: float
    split: str


def add_arguments(commands: Any) -> None:
    """Add the command `model` to a parser."""
    parser = commands.add_parser(
        "model", help="compare batch splits of a model, layer by layer, in float64", description=__doc__,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=lambda options: verify(Question.of(options)))
    shown = "(default: %(default)s)"
    parser.add_argument("model", help="timm:NAME, any classification model of timm")
    parser.add_argument("--args", default="{}", help="more arguments for timm.create_model, as {key: value}")
    parser.add_argument("--world", type=count, default=2, help=f"ranks, processes on this machine {shown}")
    parser.add_argument("--steps", type=count, default=3, help=f"optimizer steps {shown}")
    parser.add_argument("--batch-size", type=count, default=8, help=f"random images per step {shown}")
    parser.add_argument("--bn-batch-size", type=count, default=4, help=f"images of a ghost batch {shown}")
    parser.add_argument("--image-size", type=count, default=64, help=f"their height and width {shown}")
    parser.add_argument("--optimizer", default="sgd", help=f"sgd, lars or lamb {shown}")
    parser.add_argument("--lr", type=positive, default=0.01, help=f"learning rate {shown}")
    text = "largest relative difference that is rounding (default: 1e-8 in fp64; in fp32 none is judged)"
    parser.add_argument("--tolerance", type=positive, help=text)
    parser.add_argument(
        "--precision", default="fp64", choices=("fp64", "fp32"), help=f"fp32 shows how rounding grows {shown}"
    )
    text = f"layers shown, the worst first; 0: all {shown}"
    parser.add_argument("--rows", type=count_or_none, default=15, help=text)


def verify(question: Question) -> int:
    """Compare, print the table, return 0 or 1. Raises RecipeError for a model that cannot be trained."""
    layers, losses = compare(question)
    off = [layer for layer in layers if layer.state > question.tolerance]
    _print(question, layers, len(off), losses)
    return 1 if off else 0


def compare(question: Question) -> tuple[list[LayerDifference], list[float]]:
    """One row a layer, the worst first, and the relative difference of the loss in every step. Raises
    RecipeError for a split or a model that cannot be.
    """
    splits = question.splits()
    _check(question)
    reference, *others = [
        trace for world in sorted({s.world_size for s in splits}) for trace in _traces(question, world)
    ]
    kinds = layer_kinds(question.recipe())
    pairs = list(zip(splits[1:], others, strict=True))
    rows = [_worst(name, kind, reference, pairs) for name, kind in kinds.items()]
    losses = [
        max(abs(trace.losses[step] / reference.losses[step] - 1) for trace in others)
        for step in range(question.steps)
    ]
    return sorted(rows, key=lambda row: -row.state), losses


def _check(question: Question) -> None:
    from lbtrain.data import dataset_info
    from lbtrain.plan.plan import make_plan
    from lbtrain.plan.statistics import model_statistics

    if question.batch_size % question.bn_batch_size or question.batch_size == question.bn_batch_size:
        raise RecipeError("--batch-size must hold at least two ghost batches of --bn-batch-size")
    if question.bn_batch_size % question.world:
        raise RecipeError(f"--bn-batch-size must be a multiple of --world={question.world}")
    recipe = question.recipe()
    statistics = model_statistics(recipe, dataset_info(recipe.data))
    for split in question.splits():
        own = recipe.vary(micro_batch_size=split.micro_batch_size)
        make_plan(own, split.world_size, engine=question.engine, statistics=statistics)


def _traces(question: Question, world: int) -> list[Trace]:
    """Of the splits on so many ranks, each run by processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, args=(question, world, Path(folder)), nprocs=world, join=True)
        return [Trace(*parts) for parts in torch.load(Path(folder) / "traces.pt", weights_only=True)]


def _rank(rank: int, question: Question, world: int, folder: Path) -> None:
    from lbtrain.launch.world import leave_process_group

    torch.set_num_threads(max(1, torch.get_num_threads() // world))
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "meeting"), world), rank=rank, world_size=world
    )
    traces = [trained(question, split) for split in question.splits() if split.world_size == world]
    if rank == 0:
        torch.save([(trace.outputs, trace.state, trace.losses) for trace in traces], folder / "traces.pt")
    leave_process_group()


def layer_kinds(recipe: Recipe) -> dict[str, str]:
    """Class names of the layers that have weights or statistics of their own, in the model's order."""
    from lbtrain.data import dataset_info
    from lbtrain.tasks import build_model

    with torch.device("meta"):
        model = build_model(recipe, dataset_info(recipe.data))
    return {
        name: type(module).__name__
        for name, module in model.named_modules()
        if [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    }


def _worst(name: str, kind: str, reference: Trace, pairs: list[tuple[Split, Trace]]) -> LayerDifference:
    own = [key for key in reference.state if key.rpartition(".")[0] == name]
    rows = []
    for split, trace in pairs:
        state = max([_difference(trace.state[key], reference.state[key]) for key in own], default=0.0)
        rows.append(LayerDifference(name, kind, _outputs(name, split, trace, reference), state, split.name))
    worst = max(rows, key=lambda row: row.state)
    return worst._replace(outputs=max(row.outputs for row in rows))


def difference_of_states(trace: Trace, reference: Trace) -> float:
    """The largest relative difference of weights and running statistics."""
    return max(_difference(trace.state[key], tensor) for key, tensor in reference.state.items())


def _outputs(name: str, split: Split, trace: Trace, reference: Trace) -> float:
    ours, expected = trace.outputs.get(name), reference.outputs.get(name)
    if ours is None or expected is None or len(ours) * split.world_size != len(expected):
        return 0.0
    chunks = expected.split(split.micro_batch_size)[:: split.world_size]
    return _difference(ours, torch.cat(chunks))


def _difference(ours: Tensor, expected: Tensor) -> float:
    a, b = without_equal_infinities(ours.double(), expected.double())
    if not a.numel():
        return 0.0
    difference = float((a - b).abs().max() / b.abs().max().clamp_min(SCALE))
    return difference if difference == difference else float("inf")


def _print(question: Question, layers: list[LayerDifference], off: int, losses: list[float]) -> None:
    shown = layers[: question.rows or None]
    others = len(question.splits()) - 1
    table = Table(
        title=f"{question.model}: {others} batch split{'s' * (others > 1)} against one rank, "
        f"{question.steps} steps in {question.precision}",
        caption=f"{len(shown)} of {len(layers)} layers, the worst first; relative differences",
    )
    for column in ("layer", "kind"):
        table.add_column(column)
    for column in ("outputs, step 1", f"weights, step {question.steps}"):
        table.add_column(column, justify="right")
    table.add_column("at")
    for layer in shown:
        numbers = f"{layer.outputs:.1e}", f"{layer.state:.1e}"
        table.add_row(layer.name, layer.kind, *numbers, layer.split if layer.state else "")
    console = Console()
    console.print(table)
    console.print(f"loss, steps 1 to {question.steps}: {', '.join(f'{loss:.1e}' for loss in losses)}")
    largest = max(layer.state for layer in layers)
    if question.tolerance == math.inf:
        verdict = f"layers differ by up to {largest:.1e}; whether that is rounding alone, float64 tells"
    elif off:
        verdict = f"the guarantee does not hold: {off} of {len(layers)} layers differ, by up to {largest:.1e}"
    else:
        verdict = f"the guarantee holds: all {len(layers)} layers agree to {largest:.1e}"
    console.print(verdict)
