"""The Hessian's spectrum from Hessian-vector products alone: top eigenvalues, trace, density.

Sources: Lanczos with full re-orthogonalisation (Golub & Van Loan, "Matrix Computations", section 10.3); the
trace by Hutchinson 1990; the density by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017; for networks
Ghorbani et al. 2019 and Yao et al. 2019, PyHessian). Cost in products: `power_iteration` one an iteration;
`top_eigenvalues` one a Lanczos step, for all k together (a power iteration for each with deflation, as
PyHessian does, takes several times as many); `trace` one a sample; `spectral_density` probes x steps. Memory:
Lanczos keeps its basis, steps x size x 4 bytes, on the device of the product; the others a few vectors.
Limits: single-precision products give eigenvalues to about 1e-6 of the largest; Lanczos cannot see that an
eigenvalue is multiple; eigenvalues near zero are not resolved, only the density tells about them. Intervals
are of the random vectors, not of the data.

Any object with `size`, `device` and `hessian_vector` will do: `Objective` for a network, a few lines for a
matrix.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lbtrain.analysis.objective import random_vector


class Curvature(Protocol):
    """A symmetric matrix [size, size] that is known by its products."""

    size: int
    device: torch.device

    def hessian_vector(self, vector: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Power:
    """The eigenvalue of largest magnitude, with its sign, its unit vector [size], and how many products it
    took.
    """

    value: float
    vector: Tensor
    products: int


@dataclass(frozen=True)
class Eigenvalues:
    """The `k` largest, descending: values, unit vectors [k, size]; `smallest` is the other end of the
    spectrum.

    Each lies within its `residuals` entry of an eigenvalue of the matrix; `converged` if all these are within
    the tolerance.
    """

    values: list[float]
    vectors: Tensor
    residuals: list[float]
    smallest: float
    products: int
    converged: bool


@dataclass(frozen=True)
class Trace:
    """The mean of the samples, and a 95% interval (Student's t) around it."""

    value: float
    interval: tuple[float, float]
    samples: list[float]


@dataclass(frozen=True)
class Density:
    """Per random vector, the nodes (eigenvalues) and weights (they add up to 1) of a Gauss quadrature of the
    spectral measure.
    """

    nodes: list[list[float]]
    weights: list[list[float]]

    def on(self, grid: Tensor, *, sigma: float) -> Tensor:
        """The density on the points of `grid`, each node a Gaussian of width `sigma`; it integrates to 1."""
        curves = []
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            distance = (grid.double()[:, None] - torch.tensor(nodes, dtype=torch.float64)) / sigma
            bells = torch.exp(-0.5 * distance**2) / (sigma * math.sqrt(2 * math.pi))
            curves.append(bells @ torch.tensor(weights, dtype=torch.float64))
        return torch.stack(curves).mean(0)


def power_iteration(
    curvature: Curvature, *, iterations: int = 100, tolerance: float = 1e-3, seed: int = 0
) -> Power:
    """Stops when the eigenvalue changes by less than `tolerance` of itself. (ABSA, Yao et al. 2018: 10
    iterations, 0.01.)
    """
    vector = _unit(random_vector(curvature.size, seed=seed, device=curvature.device))
    value, products = math.inf, 0
    for _ in range(iterations):
        image = curvature.hessian_vector(vector)
        products += 1
        before, value = value, float(torch.dot(image, vector))
        if not image.norm() or abs(value - before) <= tolerance * abs(value):
            break
        vector = _unit(image)
    return Power(value, vector, products)


def top_eigenvalues(
    curvature: Curvature, k: int = 1, *, steps: int = 100, tolerance: float = 1e-4, seed: int = 0
) -> Eigenvalues:
    """At most `steps` Lanczos steps, fewer once the k largest are within `tolerance` of the spectrum's
    radius.
    """
    if not 1 <= k <= curvature.size:
        raise ValueError(
            f"k={k}: this matrix has {curvature.size} eigenvalues; ask for 1 to {curvature.size} of them"
        )
    lanczos = Lanczos(curvature, random_vector(curvature.size, seed=seed, device=curvature.device))
    while True:
        going_on = lanczos.step()
        values, components = lanczos.ritz()
        top = values.argsort(descending=True)[:k]
        residuals = lanczos.residual * components[-1, top].abs()
        converged = len(top) == k and bool((residuals <= tolerance * values.abs().max()).all())
        if converged or not going_on or len(lanczos.basis) >= min(steps, curvature.size):
            break
    vectors = torch.zeros(len(top), curvature.size, device=curvature.device)
    for coordinates, vector in zip(components[:, top].to(vectors), lanczos.basis, strict=True):
        vectors += torch.outer(coordinates, vector)
    return Eigenvalues(
        values[top].tolist(), vectors, residuals.tolist(), float(values.min()), len(lanczos.basis), converged
    )


def trace(
    curvature: Curvature,
    *,
    samples: int = 100,
    tolerance: float = 0.0,
    known: Eigenvalues | None = None,
    seed: int = 0,
) -> Trace:
    """At most `samples` products with random signs; from the tenth on, fewer once the interval is
    +-`tolerance` of the estimate.

    `known` eigenvectors are taken out of the random part (Hutch++, Meyer et al. 2021), which needs far fewer
    samples where a few eigenvalues dominate, as in networks.
    """
    if samples < 2:
        raise ValueError(f"samples={samples}: an interval needs at least 2")
    found: list[float] = []
    for number in range(samples):
        signs = random_vector(curvature.size, seed=seed + number, device=curvature.device, signs=True)
        rest = signs if known is None else signs - known.vectors.T @ (known.vectors @ signs)
        product = float(torch.dot(rest.double(), curvature.hessian_vector(rest).double()))
        found.append(product + (sum(known.values) if known else 0.0))
        if len(found) >= 10 and _half_width(found) <= tolerance * abs(statistics.mean(found)):
            break
    middle, half = statistics.mean(found), _half_width(found)
    return Trace(middle, (middle - half, middle + half), found)


def spectral_density(curvature: Curvature, *, probes: int = 4, steps: int = 80, seed: int = 0) -> Density:
    """The measure that puts 1/size on every eigenvalue, seen through `probes` random vectors of `steps`
    Lanczos steps each.
    """
    nodes, weights = [], []
    for number in range(probes):
        lanczos = Lanczos(
            curvature, random_vector(curvature.size, seed=seed + number, device=curvature.device, signs=True)
        )
        while lanczos.step() and len(lanczos.basis) < min(steps, curvature.size):
            pass
        values, components = lanczos.ritz()
        nodes.append(values.tolist())
        weights.append(components[0].square().tolist())
    return Density(nodes, weights)


class Lanczos:
    """The Krylov basis of a start vector, one product a step, each new vector made orthogonal to all before
    it, twice.
    """

    def __init__(self, curvature: Curvature, start: Tensor):
        self.curvature = curvature
        self.basis: list[Tensor] = []
        self.diagonal: list[float] = []
        self.off_diagonal: list[float] = []
        self.residual = math.inf
        self._next = _unit(start)

    def step(self) -> bool:
        """False once the basis spans all that the start vector reaches: then the eigenvalues found are
        exact.
        """
        if self.basis:
            self.off_diagonal.append(self.residual)
        self.basis.append(self._next)
        image = self.curvature.hessian_vector(self._next)
        self.diagonal.append(float(torch.dot(image, self._next)))
        for vector in [*self.basis, *self.basis]:
            image -= vector * torch.dot(vector, image)
        self.residual = float(image.norm())
        radius = max(map(abs, self.diagonal + self.off_diagonal))
        if self.residual <= 1e-6 * radius or len(self.basis) == self.curvature.size:
            self.residual = 0.0
            return False
        self._next = _unit(image)
        return True

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues [steps], ascending, and the coordinates of the eigenvectors in the basis, as columns
        [steps, steps]; float64, CPU.
        """
        off = torch.tensor(self.off_diagonal, dtype=torch.float64)
        matrix = (
            torch.diag(torch.tensor(self.diagonal, dtype=torch.float64))
            + torch.diag(off, 1)
            + torch.diag(off, -1)
        )
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def _half_width(samples: list[float]) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, len(samples) - 1)) * statistics.stdev(samples) / math.sqrt(len(samples))
