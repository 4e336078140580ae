"""Hessian of ResNet-20 against PyHessian: same values, the time to five eigenvalues of the same accuracy, and
what it is made of.

    python -m bench.hessian --pyhessian PATH          appends to results/hessian.csv

PATH is a checkout of github.com/amirgholami/PyHessian; the environment variable PYHESSIAN may name it
instead.

A network of cifar_resnet20's size in fp32 with evaluation-mode batch norm (PyHessian knows no other), a batch
of synthetic images cut into two. All times are CPU time of one thread, in turns.

The aim is at most half of PyHessian's time to the five largest eigenvalues, each within 1e-3 of its converged
value: that is what a user waits for, and it is products times the time of one. `eigenvalues` gives it, and
the number of products: Lanczos here, power iteration with deflation there, each as its user calls it, at the
loosest of TOLERANCES that reaches the accuracy. `product` times one product over the same two batches, after
a check that both give the same; `product-kept` with the graphs kept, which PyHessian does for a single batch
only. These two have no aim of their own: most of a product is convolutions, the same ones on either side.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import parser, processor_ms, rows
from lbtrain.analysis import Objective, top_eigenvalues

CHECKOUT = os.environ.get("PYHESSIAN")
COMMAND = "python -m bench.hessian --pyhessian PyHessian"
TOP, ACCURACY = 5, 1e-3
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
ROUNDS, PRODUCT_ROUNDS = 5, 25
CASES = ("eigenvalues", "product", "product-kept")


def network(steps: int, images: int) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """ResNet-20 after some steps on two batches of synthetic images, so that its spectrum has the outliers of
    a trained network.
    """
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


class Ours:
    """The same of the library: `products` of the newest `eigenvalues`."""

    def __init__(self, model: nn.Module, batches: list[tuple[Tensor, Tensor]]):
        self.objective, self.products = Objective(model, loss, batches), 0

    def eigenvalues(self, tolerance: float) -> list[float]:
        found = top_eigenvalues(self.objective, TOP, steps=300, tolerance=tolerance)
        self.products = found.products
        return found.values


def eigenvalues(
    folder: Path, model: nn.Module, batches: list[tuple[Tensor, Tensor]], *, command: str
) -> list[rows.Row]:
    """Times both until the accuracy, which is compared with eigenvalues that Lanczos gives at a far smaller
    tolerance.
    """
    converged = top_eigenvalues(
        Objective(model, loss, batches, keep_graphs=True), TOP, steps=300, tolerance=1e-6
    ).values
    print(f"eigenvalues {' '.join(f'{value:.5g}' for value in converged)}", flush=True)
    ours, peer = Ours(model, batches), Peer(folder, model, batches)
    mine, theirs = _loosest("ours", ours, converged), _loosest("PyHessian", peer, converged)
    times = [
        (
            processor_ms(lambda: ours.eigenvalues(mine)) / 1e3,
            processor_ms(lambda: peer.eigenvalues(theirs)) / 1e3,
        )
        for _ in range(ROUNDS)
    ]
    name, counts = f"PyHessian, tolerance {theirs:g}", ([float(ours.products)], [float(peer.products)])
    return [
        rows.paired(
            "hessian",
            "five eigenvalues",
            name,
            *map(list, zip(*times, strict=True)),
            unit="s",
            target="<=0.5",
            command=command,
        ),
        rows.paired("hessian", "products", name, *counts, unit="products", target="<=0.5", command=command),
    ]


def _loosest(name: str, solver: "Ours | Peer", converged: list[float]) -> float:
    """The first of TOLERANCES at which `solver` is accurate. Raises RuntimeError if it is at none."""
    for tolerance in TOLERANCES:
        found = solver.eigenvalues(tolerance)
        print(
            f"{name} at tolerance {tolerance:g}: {solver.products} products, off by "
            f"{_off(found, converged):.2g}",
            flush=True,
        )
        if _off(found, converged) <= ACCURACY:
            return tolerance
    raise RuntimeError(
        f"{name} is off by {_off(found, converged):.2g} at its tightest tolerance, {tolerance:g}: no row"
    )


def _off(found: list[float], true: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(sorted(found, reverse=True), true, strict=True))


def product(
    folder: Path, model: nn.Module, batches: list[tuple[Tensor, Tensor]], *, kept: bool, command: str
) -> rows.Row:
    """Times one product over both batches; checks first that both give the same."""
    objective, peer = Objective(model, loss, batches, keep_graphs=kept), Peer(folder, model, batches)
    vector = torch.randn(objective.size)
    parts = list(objective.split(vector).values())
    ours, theirs = (
        objective.hessian_vector(vector),
        torch.cat([part.reshape(-1) for part in peer.product(parts)]),
    )
    torch.testing.assert_close(
        ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.norm()) / objective.size**0.5
    )
    mine, others = [], []
    for _ in range(PRODUCT_ROUNDS):
        mine.append(processor_ms(lambda: objective.hessian_vector(vector)))
        others.append(processor_ms(lambda: peer.product(parts)))
    case = "product-kept" if kept else "product"
    return rows.paired("hessian", case, "PyHessian", mine, others, unit="ms", target="", command=command)


def main() -> None:
    flags = parser("python -m bench.hessian", __doc__, cases=CASES)
    flags.add_argument(
        "--pyhessian", type=Path, default=CHECKOUT, required=not CHECKOUT, help="A checkout of PyHessian."
    )
    flags.add_argument("--images", type=int, default=16, help="Images in each of two batches (default 16).")
    flags.add_argument(
        "--steps", type=int, default=40, help="Training steps before the measurement (default 40)."
    )
    options = flags.parse_args()
    torch.set_num_threads(1)
    setting = (options.pyhessian, *network(options.steps, options.images))
    changed = "".join(
        f", {key}={value}"
        for key in ("images", "steps")
        if (value := getattr(options, key)) != flags.get_default(key)
    )
    for case in options.cases:
        command = f"{COMMAND} --cases {case} --images {options.images} --steps {options.steps}"
        if case == "eigenvalues":
            found = eigenvalues(*setting, command=command)
        else:
            found = [product(*setting, kept=case == "product-kept", command=command)]
        # Another setting is a case of its own, whose rows do not replace those of the default.
        rows.write([dataclasses.replace(row, case=f"{row.case}{changed}") for row in found], "hessian")


if __name__ == "__main__":
    main()
