"""How far the loss rises near a point: Keskar's box and SAM's ball.

Sources: Keskar et al. 2017, "On large-batch training for deep learning", metric 2.1; Foret et al. 2021,
"Sharpness-aware minimization", section 2. Cost: `box_sharpness` about as many gradients as iterations and one
or two more; `ascent_sharpness` one gradient a step and two values. Memory: L-BFGS-B keeps some 25 vectors of
the searched space in float64 on the CPU (full space: 200 bytes a parameter); a subspace of p directions keeps
p x size x 4 bytes on the device, and twice that while x is expressed in them. Limits: a value of the box
depends on the scale of the weights: it compares runs of one network, not networks (Dinh et al. 2017). In a
random subspace it depends on the distribution of A too, which the definition leaves open: here its entries
are standard normal, so that a coordinate of z moves every parameter about as far as a coordinate of the full
space moves its own. (Columns of length 1 would move them less by the root of size: a box of 1e-3 would then
show the slope at x and nothing of its curvature.) Ten iterations find a large value, not surely the maximum.
The paper starts them at x itself (`start="x"`), where the gradient of a minimum says little; by default they
start at a random point of the box. With `eval` batch norm the running statistics stay those of x while the
weights move. Over ranks: each follows the same search, since value and gradient are averages over all of
them.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lbtrain.analysis.objective import random_vector


class Surface(Protocol):
    """A function of a vector [size], known around one point x; `Objective` is one."""

    size: int
    device: torch.device

    def point(self) -> Tensor: ...
    def value(self, shift: Tensor | None = None) -> float: ...
    def gradient(self, shift: Tensor | None = None) -> tuple[float, Tensor]: ...


@dataclass(frozen=True)
class Sharpness:
    """`value` = 100 (peak - base) / (1 + base): the paper's number; base = f(x), peak the largest f that was
    met in the box.
    """

    value: float
    base: float
    peak: float
    evaluations: int


def box_sharpness(
    surface: Surface,
    *,
    epsilon: float = 1e-3,
    directions: int = 0,
    iterations: int = 10,
    start: Literal["random", "x"] = "random",
    seed: int = 0,
) -> Sharpness:
    """Keskar's metric: the largest f(x + A z) with |z_i| <= epsilon (|(A+ x)_i| + 1), by L-BFGS-B.

    `directions` = 0 searches the full space (A the identity), 100 is the paper's random subspace (A of normal
    columns). `start`: a random point of the box, or x itself.
    """
    from scipy.optimize import minimize

    basis = _random_basis(surface, directions, seed) if directions else None
    centre = (
        surface.point()
        if basis is None
        else torch.linalg.lstsq(basis, surface.point()[:, None]).solution[:, 0]
    )
    bound = (epsilon * (centre.abs() + 1)).double().cpu().numpy()
    base = surface.value()
    peak, evaluations = base, 0

    def descend(z: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal peak, evaluations
        evaluations += 1
        inside = torch.from_numpy(z).to(surface.device, torch.float32)
        value, gradient = surface.gradient(inside if basis is None else basis @ inside)
        peak = max(peak, value)
        return -value, -(gradient if basis is None else basis.T @ gradient).double().cpu().numpy()

    place = 2 * np.random.default_rng(seed).random(len(bound)) - 1 if start == "random" else 0.0
    limits: Any = np.stack([-bound, bound], axis=1)
    minimize(
        descend,
        bound * place,
        jac=True,
        method="L-BFGS-B",
        bounds=limits,
        options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},
    )
    return Sharpness(100 * (peak - base) / (1 + base), base, peak, evaluations)


def ascent_sharpness(surface: Surface, *, radius: float = 0.05, steps: int = 1) -> float:
    """SAM's: f(x + e) - f(x) with e on the sphere of `radius`, along the gradient (one step, as SAM trains),
    or after more steps of it.
    """
    shift: Tensor | None = None
    for _ in range(steps):
        _, gradient = surface.gradient(shift)
        length = gradient.norm()
        if not length:
            return 0.0
        moved = gradient * (radius / length) if shift is None else shift + gradient * (radius / length)
        shift = moved * (radius / moved.norm())
    return surface.value(shift) - surface.value()


def _random_basis(surface: Surface, directions: int, seed: int) -> Tensor:
    """A [size, directions], standard normal; the same on every rank."""
    # Each direction in one piece: it is written one at a time.
    rows = torch.empty(directions, surface.size, device=surface.device)
    for number in range(directions):
        rows[number] = random_vector(surface.size, seed=seed + number, device=surface.device)
    return rows.T
