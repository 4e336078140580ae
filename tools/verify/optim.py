"""Train a model for some steps twice, sharded by DeepSpeed and unsharded, and compare the update of every
layer.

Both sides see the same images and average the same per-rank gradients, so batch norm is no difference; only
the optimizer's sight is: whole layers, or DeepSpeed's slices.
"""

import argparse
import copy
import os
import socket
import tempfile
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

EXAMPLES = """
examples:
  python -m tools.verify optim --model timm:resnet18 --optimizer lars --zero 1 --world 2
  without lbtrain's binding to DeepSpeed:
  python -m tools.verify optim --model timm:resnet18 --optimizer timm:lars --zero 1
  python -m tools.verify optim --model timm:vit_tiny_patch16_224 --optimizer lamb --zero 3 --world 4 \\
      --image-size 224

exit status: 0 every layer agrees; 1 a layer is off; 2 the combination is not supported (the message says why)
"""
RATES = {"lars": 2.0, "lamb": 0.01, "sgd": 0.1}


class LayerComparison(NamedTuple):
    """The update of one layer: size sharded over size unsharded, and the cosine between the two."""

    name: str
    ratio: float
    cosine: float

    def off(self, tolerance: float) -> bool:
        return not (abs(self.ratio - 1) <= tolerance and self.cosine >= 1 - tolerance)


@dataclass(frozen=True)
class Question:
    """What to compare; see --help."""

    model: str
    optimizer: str
    zero: int
    world: int
    steps: int
    batch_size: int
    image_size: int
    lr: float
    weight_decay: float
    tolerance: float
    rows: int

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Question":
        lr = RATES.get(options.optimizer.rpartition(":")[2], 0.1) if options.lr is None else options.lr
        return cls(
            **{field: getattr(options, field) for field in cls.__dataclass_fields__ if field != "lr"}, lr=lr
        )


def add_arguments(commands: Any) -> None:
    """Add the command `optim` to a parser."""
    parser = commands.add_parser(
        "optim", help="compare an optimizer sharded and unsharded, layer by layer", description=__doc__,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--model",
        default="timm:resnet18",
        help="timm:NAME, any classification model of timm (default: %(default)s)",
    )
    parser.add_argument(
        "--optimizer", default="lars", help="lars, lamb, sgd (lbtrain's) or timm:NAME (default: %(default)s)"
    )
    parser.add_argument(
        "--zero",
        type=int,
        default=1,
        choices=(0, 1, 2, 3),
        help="DeepSpeed's ZeRO stage (default: %(default)s)",
    )
    parser.add_argument(
        "--world", type=int, default=2, help="ranks: processes on this machine's CPUs (default: %(default)s)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=3,
        help="optimizer steps; the compared update is that of all (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=4, help="random images per rank and step (default: %(default)s)"
    )
    parser.add_argument(
        "--image-size", type=int, default=64, help="their height and width (default: %(default)s)"
    )
    parser.add_argument("--lr", type=float, help=f"learning rate (default: {RATES}, else 0.1)")
    parser.add_argument("--weight-decay", type=float, default=1e-4, help="(default: %(default)s)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-2,
        help="largest |ratio - 1| and 1 - cosine (default: %(default)s)",
    )
    parser.add_argument(
        "--rows", type=int, default=15, help="layers shown, the worst first; 0: all (default: %(default)s)"
    )


def verify(question: Question) -> int:
    """Compare, print the table, return 0 or 1."""
    layers = compare(question)
    off = [layer for layer in layers if layer.off(question.tolerance)]
    _print(question, layers, len(off))
    return 1 if off else 0


def compare(question: Question) -> list[LayerComparison]:
    """Start the ranks and return one row a layer, the worst first. Wrong arguments raise ValueError here,
    before a process starts.
    """
    if question.world < 1 or question.steps < 1 or question.batch_size < 1:
        raise ValueError("--world, --steps and --batch-size must be at least 1")
    make_optimizer(question, make_model(question))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        answer = os.path.join(folder, "layers.pt")
        mp.spawn(_rank, args=(question, port, answer), nprocs=question.world, join=True)
        layers = [LayerComparison(*row) for row in torch.load(answer, weights_only=True)]
    return sorted(layers, key=lambda layer: (layer.cosine, -abs(layer.ratio - 1)))


def make_model(question: Question) -> nn.Module:
    """Build the model with weights that depend on nothing but its name."""
    import timm

    source, _, name = question.model.partition(":")
    if source != "timm" or not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:3] if name else []
        raise ValueError(
            f"--model {question.model}: write timm:NAME with a model of timm"
            + (f", such as timm:{near[0]}" if near else "")
        )
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10)


def make_optimizer(question: Question, model: nn.Module) -> torch.optim.Optimizer:
    """Build lbtrain's optimizer, or timm's under the same rate, decay and momentum."""
    from lbtrain.optim import LAMB, LARS, parameter_groups

    groups = parameter_groups(model, weight_decay=question.weight_decay)
    if question.optimizer == "lars":
        return LARS(groups, lr=question.lr)
    if question.optimizer == "lamb":
        return LAMB(groups, lr=question.lr)
    if question.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=question.lr, momentum=0.9)
    if question.optimizer.startswith("timm:"):
        from timm.optim import create_optimizer_v2

        return create_optimizer_v2(
            model, question.optimizer[5:], lr=question.lr, weight_decay=question.weight_decay, momentum=0.9
        )
    raise ValueError(f"--optimizer {question.optimizer}: write lars, lamb, sgd or timm:NAME")


def _rank(rank: int, question: Question, port: int, answer: str) -> None:
    from lbtrain.launch.world import leave_process_group

    os.environ |= {
        "DS_ACCELERATOR": "cpu",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(question.world),
    }
    torch.set_num_threads(max(1, torch.get_num_threads() // question.world))
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=question.world
    )
    model = make_model(question)
    before = _weights(model.state_dict(), model)
    expected, ours = _unsharded(question, copy.deepcopy(model)), _sharded(question, model)
    if rank == 0:
        torch.save(
            [tuple(_compare(name, ours[name] - w, expected[name] - w)) for name, w in before.items()], answer
        )
    leave_process_group()


def _weights(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    return {name: state[name].detach().cpu().clone() for name, _ in model.named_parameters()}


def _loss(question: Question, model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step * 1000 + dist.get_rank())
    images = torch.randn(
        question.batch_size, 3, question.image_size, question.image_size, generator=generator
    )
    loss: Tensor = F.cross_entropy(
        model(images), torch.randint(10, (question.batch_size,), generator=generator)
    )
    return loss


def _unsharded(question: Question, model: nn.Module) -> dict[str, Tensor]:
    optimizer = make_optimizer(question, model)
    for step in range(question.steps):
        _loss(question, model, step).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad.div_(question.world)
        optimizer.step()
        optimizer.zero_grad()
    return _weights(model.state_dict(), model)


def _sharded(question: Question, model: nn.Module) -> dict[str, Tensor]:
    from lbtrain.engines.deepspeed import import_deepspeed
    from lbtrain.optim import bind_deepspeed, deepspeed_shards

    deepspeed = import_deepspeed(next(model.parameters()).device)
    deepspeed.logger.setLevel("ERROR")
    optimizer = make_optimizer(question, model)
    config = {
        "train_micro_batch_size_per_gpu": question.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": question.zero},
    }
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False
    )
    bind_deepspeed(optimizer, engine)
    for step in range(question.steps):
        engine.backward(_loss(question, engine, step))
        engine.step()
    state = deepspeed_shards(engine).gather(optimizer)[0] if question.zero else engine.module.state_dict()
    return _weights(state, engine.module)


def _compare(name: str, ours: Tensor, expected: Tensor) -> LayerComparison:
    a, b = ours.double().flatten(), expected.double().flatten()
    sizes = float(a.norm()), float(b.norm())
    if sizes == (0.0, 0.0):
        return LayerComparison(name, 1.0, 1.0)
    if 0.0 in sizes:
        return LayerComparison(name, 0.0 if sizes[0] == 0 else float("inf"), 0.0)
    return LayerComparison(name, sizes[0] / sizes[1], float(a @ b) / (sizes[0] * sizes[1]))


def _print(question: Question, layers: list[LayerComparison], off: int) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = layers[: question.rows or None]
    title = (
        f"{question.model}, {question.optimizer}: ZeRO-{question.zero} on {question.world} ranks "
        f"against unsharded, {question.steps} steps"
    )
    table = Table(title=title, caption=f"{len(shown)} of {len(layers)} layers, the worst first")
    table.add_column("layer")
    for column in ("step size, ratio", "cosine", ""):
        table.add_column(column, justify="right")
    for layer in shown:
        mark = "[red]off[/red]" if layer.off(question.tolerance) else "ok"
        table.add_row(layer.name, f"{layer.ratio:.6g}", f"{layer.cosine:.8f}", mark)
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
