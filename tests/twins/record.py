"""Runs the authors' code beside ours, and records what it made of the same weights and images.

    python -m tests.twins.record --code FOLDER [NAME ...]

FOLDER holds checkouts of the authors' repositories, each as OWNER/NAME; nothing of them is kept here but the
numbers: tests/twins/NAME.npz, and a row of results/twins.csv. Their code of 2017 to 2019 runs on today's
Python and torch after the changes that a row lists under `switched_off`.
"""

import argparse
import csv
import logging
import re
import subprocess
import sys
import time
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import timm.utils
import torch
import torch.nn.functional as F
from torch import nn

from lbtrain.analysis.objective import random_vector
from lbtrain.nn.cifar_resnet import CifarResNet
from tests.twins.cases import (
    BATCH,
    EPOCH,
    EPOCHS,
    FOLDER,
    STEPS,
    TWINS,
    Arrays,
    Trajectory,
    averaged,
    batches,
    curvature_batch,
    decisions,
    network,
    started,
)
from tests.twins.numpy_tensorflow import tensorflow

RESULTS = FOLDER.parents[1] / "results/twins.csv"
COLUMNS = ("twin", "repository", "commit", "steps", "loss_difference", "weight_difference", "tolerance",
           "switched_off", "command", "versions")  # fmt: skip


def initial(model: nn.Module) -> Arrays:
    return {
        f"weights/{name}": value.detach().numpy().astype(np.float16)
        for name, value in model.named_parameters()
    }


def source(path: Path, *changes: tuple[str, str]) -> str:
    """The text of a file of theirs with `changes` (pattern, replacement), each of which must apply."""
    text = path.read_text()
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    return text


def executed(text: str, **names: Any) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "theirs", **names}
    exec(compile(text, "theirs", "exec"), space)
    return space


@contextmanager
def standing_in(**modules: Any) -> Iterator[None]:
    """Modules that their code imports and does not need here."""
    named = {name.replace("__", "."): module for name, module in modules.items()}
    before = {name: sys.modules.get(name) for name in named}
    sys.modules.update(named)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def trajectory(model: nn.Module, losses: list[float]) -> Trajectory:
    return Trajectory(losses, {name: weight.detach().clone() for name, weight in model.named_parameters()})


def stepped(
    model: nn.Module, optimizer: Any, criterion: Any = F.cross_entropy, schedule: Any = None
) -> Trajectory:
    """Plain steps over the twin's images; `optimizer` may hold some of the weights only."""
    losses = []
    for images, labels in batches():
        model.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        if schedule:
            schedule.step()
        losses.append(loss.item())
    return trajectory(model, losses)


def lars(code: Path, arrays: Arrays) -> Trajectory:
    """lars.py and utils.py: optimizer, schedule, label smoothing, joined as in pytorch_imagenet_resnet.py."""
    with standing_in(horovod=types.ModuleType("horovod"), horovod__torch=types.ModuleType("torch")):
        theirs = executed(source(code / "lars.py")) | executed(source(code / "utils.py"))
    model = started(network(), arrays)
    optimizer = theirs["create_optimizer_lars"](
        model=model, lr=16.0, epsilon=1e-5, momentum=0.9, weight_decay=1e-4, bn_bias_separately=True
    )
    schedule = theirs["PolynomialWarmup"](
        optimizer, decay_steps=STEPS, warmup_steps=10, end_lr=0.0, power=2.0, last_epoch=-1
    )
    return stepped(model, optimizer, theirs["LabelSmoothLoss"](0.1), schedule)


def lamb(code: Path, arrays: Arrays) -> Trajectory:
    """optimization.py, whole, on arrays: tensorflow is stood in for by numpy, gradients come from torch."""
    model = started(network(), arrays)
    norms = {name for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)}
    names = {
        name: f"{'batch_normalization' if name.rpartition('.')[0] in norms else 'layer'}/{name}:0"
        for name, _ in model.named_parameters()
    }
    graph = tensorflow({names[name]: weight.detach().numpy() for name, weight in model.named_parameters()})
    with standing_in(**graph.modules):
        theirs = executed(source(code / "optimization.py"))
    losses = []
    for images, labels in batches():
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        losses.append(loss.item())
        graph.gradients = [g.numpy() for g in torch.autograd.grad(loss, list(model.parameters()))]
        theirs["create_optimizer"](loss, 0.04, STEPS, 10, False, 0.5, 0, 1.5, 0.9, 0.999, 1e-6)
        with torch.no_grad():
            for weight, variable in zip(model.parameters(), graph.variables, strict=True):
                weight.copy_(torch.from_numpy(variable.value))
    return trajectory(model, losses)


def timm_lamb(_: Path, arrays: Arrays) -> Trajectory:
    from timm.optim import Lamb

    model = started(network(), arrays)
    optimizer = Lamb(model.parameters(), lr=0.01, weight_decay=0.02, eps=1e-6, max_grad_norm=1.0)
    return stepped(model, optimizer)


def timm_train(code: Path, arrays: Arrays) -> Trajectory:
    """train_one_epoch of train.py; task, LAMB and the average of the weights are the package's."""
    from timm.optim import Lamb
    from timm.task import ClassificationTask

    (text,) = re.findall(r"(?sm)^def train_one_epoch\(.*?(?=^def )", source(code / "train.py"))
    log = logging.getLogger("theirs")
    names = dict(torch=torch, utils=timm.utils, time=time, suppress=suppress, OrderedDict=OrderedDict)
    theirs = executed(text, **names, _logger=log)
    losses: list[float] = []

    def criterion(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(scores, labels)
        losses.append(loss.item())
        return loss

    model = started(network(), arrays)
    task = ClassificationTask(model, criterion=criterion, device=torch.device("cpu"), verbose=False)
    task.setup_ema(decay=0.9)
    options = types.SimpleNamespace(
        grad_accum_steps=1, mixup_off_epoch=0, prefetcher=False, distributed=False, channels_last=False,
        clip_grad=None, synchronize_step=False, rank=0, log_interval=STEPS, recovery_interval=0,
        save_images=False,
    )  # fmt: skip
    optimizer = Lamb(model.parameters(), lr=0.01, weight_decay=0.02, eps=1e-6, max_grad_norm=1.0)
    loader = list(batches())
    theirs["train_one_epoch"](0, model, loader, optimizer, options, task=task, device=torch.device("cpu"))
    found, average = trajectory(model, losses), task.get_trainable_module(ema=True)
    return Trajectory(found.losses, found.weights | averaged(average.module))


def airbench(code: Path, arrays: Arrays) -> Trajectory:
    """Muon of airbench94_muon.py, up to the definition of its data loader."""
    text = source(
        code / "airbench94_muon.py",
        (r"with open\(sys.argv\[0\]\) as f:\n    code = f.read\(\)\n", ""),
        (r"@torch.compile\n", ""),
        (r"G.bfloat16\(\)", "G.clone()"),
        (r".*# normalize the weight\n", ""),
        (r"(?s)#############################################\n# +DataLoader.*", ""),
    )
    theirs = executed(text)
    model = started(network(), arrays)
    filters = [weight for weight in model.parameters() if weight.dim() == 4]
    return stepped(model, theirs["Muon"](filters, lr=0.02, momentum=0.6, nesterov=True))


class Meter:
    """An average, as their utils.AverageMeter, without the imports of that file."""

    def __init__(self) -> None:
        self.val = self.sum = self.count = self.avg = 0.0

    def update(self, value: float, n: int = 1) -> None:
        self.sum, self.count = self.sum + value * n, self.count + n
        self.avg = self.sum / self.count


def ghost(code: Path, arrays: Arrays) -> Trajectory:
    """forward() of main_gbn.py and the network of models/resnet.py."""
    text = source(
        code / "main_gbn.py",
        (r"async=True", "non_blocking=True"),
        (r"is(?: not)? ''", "== ''"),
        (r"loss.data\[0\]", "loss.item()"),
        (r", volatile=not training", ""),
        (r"import clip_grad_norm\n", "import clip_grad_norm_ as clip_grad_norm\n"),
        (r"from (data|preprocess|utils) import .*\n|import models\n", ""),
        (r"(?s)model_names = sorted.*?\n\n", "model_names = []\n"),
        (r"default='resnet',\n", ""),
    )  # fmt: skip
    theirs = executed(text, AverageMeter=Meter, accuracy=lambda *_, **__: ([0.0], [0.0]))
    theirs["args"] = types.SimpleNamespace(
        gpus=None, type="torch.DoubleTensor", batch_size=64, mini_batch_size=16, print_freq=1 << 30
    )
    model = executed(source(code / "models/resnet.py", (r"AvgPool2d\(8\)", "AvgPool2d(2)")))[
        "ResNet_cifar10"
    ](depth=8).double()
    ours = started(CifarResNet(blocks=1, zero_init_last=False, projection=True).double(), arrays)
    parts = [own for own in model.modules() if not list(own.children()) and list(own.parameters())]
    found = [own for own in ours.modules() if not list(own.children()) and list(own.parameters())]
    for own, other in zip(parts, found, strict=True):
        own.load_state_dict(other.state_dict())
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1 * (64 / 16) ** 0.5, momentum=0.9, weight_decay=1e-4
    )
    losses = [
        theirs["train"]([batch], model, nn.CrossEntropyLoss(), 0, optimizer)["loss"]
        for batch in batches(64, 3)
    ]
    for own, other in zip(parts, found, strict=True):
        other.load_state_dict(own.state_dict())
    return trajectory(ours, losses)


def absa(code: Path, arrays: Arrays) -> Trajectory:
    """absa() of optimizer/absa.py, with its FGSM, eigenvalues, momentum and growth."""
    folder = code / "hessianflow"
    imports = (r"from \S*(progressbar|optm_utils|utils|eigen) import .*\n", "")
    start = (r"\[torch.randn\(p.size\(\)\).to\(device\) for p in params\]", "start(params)")
    utils = executed(source(folder / "utils.py"))
    eigen = executed(source(folder / "eigen.py", imports, start), **utils, start=start_vector)
    images = executed(source(folder / "optimizer/optm_utils.py", imports))
    text = source(
        folder / "optimizer/absa.py",
        imports,
        (r"import hessianflow\n", ""),
        (r"add_\(1 - dampening, d_p\)", "add_(d_p, alpha=1 - dampening)"),
        (r"add_\(-group\['lr'\], d_p\)", "add_(d_p, alpha=-group['lr'])"),
        (r"cuda = True, maxIter", "cuda = False, maxIter"),
    )
    losses: list[float] = []
    eigenvalues: list[float] = []
    rates: list[float] = []

    def criterion(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(scores, labels)
        losses.append(loss.item())
        return loss

    def get_eigen(*args: Any, **options: Any) -> tuple[float, Any]:
        found = eigen["get_eigen"](*args, **options)
        losses.pop()
        eigenvalues.append(found[0])
        return found

    silent: dict[str, Any] = {"print": lambda *_: None, "progress_bar": lambda *_: None}
    names = utils | images | silent
    names["test"] = lambda *_: rates.append(optimizer.param_groups[0]["lr"])
    theirs = executed(text, **names | {"get_eigen": get_eigen})
    model = started(network(), arrays)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    theirs["absa"](
        model, list(islice(batches(), EPOCH)), [curvature_batch()], None, criterion, optimizer, EPOCHS,
        [10], 0.2, batch_size=BATCH, max_large_ratio=8, adv_ratio=0.2, eps=0.005, cuda=False,
    )  # fmt: skip
    found = trajectory(model, losses)
    return Trajectory(found.losses, found.weights | decisions(eigenvalues[:-1], rates[:-1]))


def start_vector(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    """What our power iteration starts from."""
    sizes = [p.numel() for p in parameters]
    parts = random_vector(sum(sizes), seed=0, device=torch.device("cpu")).split(sizes)
    return [part.view(p.shape).to(p.dtype) for part, p in zip(parts, parameters, strict=True)]


Theirs = Callable[[Path, Arrays], Trajectory]
RECORDED: dict[str, tuple[str, Theirs, float, str]] = {
    "lars": ("NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch", lars, 1e-10, "Horovod (one process)"),
    "lamb": (
        "fastalgo/imagenet_resnet50_lamb", lamb, 1e-6,
        "TensorFlow (numpy stands in; gradients are torch's)",
    ),
    "timm_lamb": ("huggingface/pytorch-image-models", timm_lamb, 1e-7, "nothing"),
    "timm_train": (
        "huggingface/pytorch-image-models", timm_train, 1e-7,
        "logging; the average is timm's ModelEmaV3 on both sides: the loop around it is compared",
    ),
    "airbench": (
        "KellerJordan/cifar10-airbench", airbench, 1e-6,
        "torch.compile; bf16 in Newton-Schulz; normalisation of the weights before each step",
    ),
    "ghost": (
        "eladhoffer/bigBatch", ghost, 1e-10,
        "logging and accuracy; spelling of torch 0.1 (async, volatile, data[0]); pooling of 2 x 2 for 8 x 8 "
        "pixels; running statistics are not compared",
    ),
    "absa": (
        "amirgholami/HessianFlow", absa, 1e-6,
        "logging and tests; arguments of torch 1.0 (add_); power iteration starts from our random vector; "
        "our adversarial images are chosen and clipped as theirs",
    ),
}  # fmt: skip
"""Repository, what runs its code, the largest relative difference of a loss that is allowed, and what had to
be switched off. LAMB's two clip to a global norm, in whose denominator torch has 1e-6 more than TensorFlow
and timm (without that, losses agree to 1e-15); airbench divides by a norm plus 1e-7 of a momentum that is not
averaged.
"""


def record(name: str, folder: Path) -> dict[str, Any]:
    repository, run, tolerance, switched_off = RECORDED[name]
    code = folder / repository
    torch.manual_seed(0)
    model = (
        CifarResNet(blocks=1, zero_init_last=False, projection=True).double()
        if name == "ghost"
        else network()
    )
    arrays = initial(model)
    theirs = run(code, arrays)
    losses, weights = TWINS[name](arrays).difference(theirs)
    final = {f"final/{key}": value.numpy().astype(np.float32) for key, value in theirs.weights.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", loss=np.array(theirs.losses), **arrays, **final)
    return {
        "twin": name, "repository": repository, "commit": commit_of(code), "steps": len(theirs.losses),
        "loss_difference": f"{losses:.2e}", "weight_difference": f"{weights:.2e}",
        "tolerance": f"{tolerance:g}",
        "switched_off": switched_off, "command": f"python -m tests.twins.record --code FOLDER {name}",
        "versions": f"torch={torch.__version__} numpy={np.__version__}",
    }  # fmt: skip


def commit_of(code: Path) -> str:
    """Of a checkout; of an installed package its version."""
    if not code.is_dir():
        return f"timm {timm.__version__}"
    return subprocess.run(
        ["git", "-C", str(code), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the authors' code beside ours.")
    parser.add_argument("--code", type=Path, required=True, help="folder of checkouts, each as OWNER/NAME")
    parser.add_argument("twins", nargs="*", default=list(RECORDED), help="which ones; all by default")
    args = parser.parse_args()
    kept = {row["twin"]: row for row in rows()}
    for name in args.twins:
        kept[name] = record(name, args.code)
        print(name, kept[name]["loss_difference"], kept[name]["weight_difference"], flush=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept[name] for name in RECORDED if name in kept)


def rows() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
