"""Hessian of ResNet-20 against PyHessian: same values, how many products each takes for the same accuracy, and the time of a product.

    python -m bench.hessian --pyhessian PATH          appends to results/hessian.csv

PATH is a checkout of github.com/amirgholami/PyHessian; the environment variable PYHESSIAN may name it instead.

A network of cifar_resnet20's size in fp32 with evaluation-mode batch norm (PyHessian knows no other), a batch of synthetic images cut
into two. Cases: `products` counts the Hessian-vector products until the five largest eigenvalues are within 1e-3 of converged ones
(Lanczos here, power iteration with deflation there; PyHessian is given its loosest tolerance that reaches this, in our favour nothing);
`product` times one product over the same two batches, in turns, on CPU time of one thread; `product-kept` with the graphs kept.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import rows
from lbtrain.analysis import Objective, top_eigenvalues
from lbtrain.analysis.hessian import Lanczos
from lbtrain.analysis.objective import random_vector

CHECKOUT = os.environ.get("PYHESSIAN")
COMMAND = "python -m bench.hessian --pyhessian PyHessian"
ROUNDS, TOP, ACCURACY = 7, 5, 1e-3
CASES = ("products", "product", "product-kept")


def network(steps: int, images: int) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """ResNet-20 after some steps on two batches of synthetic images, so that its spectrum has the outliers of a trained network."""
    import timm

    import lbtrain.nn  # noqa: F401  registers the model

    torch.manual_seed(0)
    model = timm.create_model("cifar_resnet20", num_classes=10, in_chans=3)
    labels = torch.arange(2 * images) % 10
    pixels = torch.randn(10, 3, 32, 32)[labels] + torch.randn(2 * images, 3, 32, 32)
    batches = list(zip(pixels.split(images), labels.split(images), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, batches[step % 2]).backward()
        optimizer.step()
    return model.eval(), batches


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


class Peer:
    """PyHessian over a list of batches, with its products counted."""

    def __init__(self, folder: Path, model: nn.Module, batches: list[tuple[Tensor, Tensor]]):
        sys.path.insert(0, str(folder))
        from pyhessian import hessian

        self.computation = hessian(model, F.cross_entropy, dataloader=batches, cuda=False)
        # It takes its list of parameters from gradients that exist, and makes none itself for a loader.
        self.computation.params = list(model.parameters())
        self.products = 0
        self._product = self.computation.dataloader_hv_product
        self.computation.dataloader_hv_product = self._counted

    def _counted(self, vector: list[Tensor]) -> Any:
        self.products += 1
        return self._product(vector)

    def product(self, vector: list[Tensor]) -> list[Tensor]:
        return self._product(vector)[1]

    def eigenvalues(self, tolerance: float) -> list[float]:
        self.products = 0
        torch.manual_seed(1)
        found: list[float] = self.computation.eigenvalues(maxIter=1000, tol=tolerance, top_n=TOP)[0]
        return found


def products(folder: Path, model: nn.Module, batches: list[tuple[Tensor, Tensor]], *, command: str) -> rows.Row:
    """Counts products; both are held against eigenvalues that Lanczos gives at a far smaller tolerance."""
    objective = Objective(model, loss, batches, keep_graphs=True)
    converged = top_eigenvalues(objective, TOP, steps=150, tolerance=1e-6)
    lanczos, ours = Lanczos(objective, random_vector(objective.size, seed=0, device=objective.device)), 0
    while not _close(lanczos.ritz()[0].flip(0)[:TOP].tolist() if ours else [], converged.values):
        lanczos.step()
        ours += 1
    peer = Peer(folder, model, batches)
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        found = peer.eigenvalues(tolerance)
        print(f"PyHessian at tolerance {tolerance:g}: {peer.products} products, off by {_off(found, converged.values):.2g}", flush=True)
        if _close(found, converged.values):
            break
    else:
        raise RuntimeError(f"PyHessian is off by {_off(found, converged.values):.2g} at its tightest tolerance, {tolerance:g}: no row")
    print(f"ours: {ours} products; eigenvalues {' '.join(f'{value:.5g}' for value in converged.values)}", flush=True)
    case, name = "products", f"PyHessian, tolerance {tolerance:g}"
    return rows.paired("hessian", case, name, [float(ours)], [float(peer.products)], unit="products", target="<=0.5", command=command)


def _off(found: list[float], true: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(sorted(found, reverse=True), true, strict=True))


def _close(found: list[float], true: list[float]) -> bool:
    return len(found) == len(true) and _off(found, true) <= ACCURACY


def product(folder: Path, model: nn.Module, batches: list[tuple[Tensor, Tensor]], *, kept: bool, command: str) -> rows.Row:
    """Times one product over both batches; checks first that both give the same."""
    objective, peer = Objective(model, loss, batches, keep_graphs=kept), Peer(folder, model, batches)
    vector = torch.randn(objective.size)
    parts = list(objective.cut(vector).values())
    ours, theirs = objective.hessian_vector(vector), torch.cat([part.reshape(-1) for part in peer.product(parts)])
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.norm()) / objective.size**0.5)
    mine, others = [], []
    for _ in range(ROUNDS):
        mine.append(_milliseconds(lambda: objective.hessian_vector(vector)))
        others.append(_milliseconds(lambda: peer.product(parts)))
    case = "product-kept" if kept else "product"
    return rows.paired("hessian", case, "PyHessian", mine, others, unit="ms", target="<=0.5" if kept else "", command=command)


def _milliseconds(call: Any) -> float:
    started = time.process_time()
    call()
    return 1e3 * (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hessian", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pyhessian", type=Path, default=CHECKOUT, required=not CHECKOUT, help="a checkout of PyHessian")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--images", type=int, default=64, help="in each of two batches (default 64)")
    parser.add_argument("--steps", type=int, default=40, help="training steps before (default 40)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = (options.pyhessian, *network(options.steps, options.images))
    for case in options.cases:
        command = f"{COMMAND} --cases {case} --images {options.images} --steps {options.steps}"
        kept = case == "product-kept"
        rows.write(
            [products(*setting, command=command) if case == "products" else product(*setting, kept=kept, command=command)], "hessian"
        )


if __name__ == "__main__":
    main()
