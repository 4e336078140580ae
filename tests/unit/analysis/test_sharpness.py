"""Both measures on quadratics whose highest point in the box, and on the sphere, is known."""

import numpy as np
import pytest
import torch

from lbtrain.analysis import Objective
from lbtrain.analysis.sharpness import ascent_sharpness, box_sharpness
from tests.unit.analysis.curvatures import cross_entropy, small_batches, small_net


class Quadratic:
    """f(x + s) = base + sum of curvatures * (x + s - minimum)^2 / 2."""

    def __init__(self, curvatures, *, at=0.0, minimum=0.0, base=0.25):
        self.curvatures, self.size, self.device = (
            torch.as_tensor(curvatures, dtype=torch.float64),
            len(curvatures),
            torch.device("cpu"),
        )
        self.x, self.minimum, self.base = torch.full((self.size,), float(at)), minimum, base

    def point(self):
        return self.x

    def value(self, shift=None):
        return self.gradient(shift)[0]

    def gradient(self, shift=None):
        away = (self.x if shift is None else self.x + shift).double() - self.minimum
        return float(self.base + 0.5 * (self.curvatures * away**2).sum()), (self.curvatures * away).float()


@pytest.mark.parametrize("epsilon", [1e-3, 5e-4])
@pytest.mark.parametrize("at", [0.0, 2.0])
def test_the_box_of_a_convex_quadratic_peaks_at_a_corner(epsilon, at):
    curvatures = torch.linspace(1, 300, 40)
    found = box_sharpness(Quadratic(curvatures, at=at, minimum=at), epsilon=epsilon)
    corner = 0.5 * float(curvatures.sum()) * (epsilon * (at + 1)) ** 2
    assert found.value == pytest.approx(100 * corner / (1 + 0.25), rel=1e-4)
    assert found.base == 0.25 and found.evaluations <= 30


def test_where_the_surface_falls_in_some_directions_the_peak_is_inside():
    curvatures = torch.tensor([200.0, -200.0, 50.0, -1.0])
    assert box_sharpness(Quadratic(curvatures)).value == pytest.approx(
        100 * 0.5 * 250 * 1e-6 / 1.25, rel=1e-3
    )
    assert box_sharpness(Quadratic(-torch.ones(4))).value == pytest.approx(0, abs=1e-9)


def test_the_search_can_start_at_x():
    """Where x is no minimum its own gradient leads to the same corner; at an exact one it leads nowhere."""
    slope = Quadratic([4.0, 1.0], at=0.5)
    from_x, random = (box_sharpness(slope, start=start) for start in ("x", "random"))
    assert from_x.value == pytest.approx(random.value, rel=1e-4) and from_x.value > 0
    assert box_sharpness(Quadratic([4.0, 1.0]), start="x").value == 0


def test_a_random_subspace_is_searched_in_its_own_box():
    """Along one direction a the box is |z| <= epsilon (|a+ x| + 1), and the peak is at an end of it."""
    surface = Quadratic(torch.linspace(1, 100, 500), at=1.0, minimum=1.0)
    generator = torch.Generator().manual_seed(7)
    direction = torch.randn(500, generator=generator)  # of length 22: a column of A is not made shorter
    coordinate = float(direction @ surface.x / (direction @ direction))
    end = 1e-3 * (abs(coordinate) + 1)
    peak = 0.5 * float((surface.curvatures * direction.double() ** 2).sum()) * end**2
    found = box_sharpness(surface, directions=1, seed=7)
    assert found.value == pytest.approx(100 * peak / 1.25, rel=1e-3)
    assert found.value < box_sharpness(surface, directions=20, seed=7).value, "more directions, a higher peak"


def test_the_ascent_of_a_quadratic():
    surface = Quadratic([4.0, 1.0], at=1.0)
    direction = np.array([4, 1]) / 17**0.5
    exact = 0.5 * (4 * (1 + 0.1 * direction[0]) ** 2 + (1 + 0.1 * direction[1]) ** 2) - 2.5
    assert ascent_sharpness(surface, radius=0.1) == pytest.approx(exact, rel=1e-5)
    assert ascent_sharpness(Quadratic([4.0, 1.0])) == 0, "no direction at an exact minimum"
    near = Quadratic([9.0, 1.0, 0.5], at=1e-6)
    assert ascent_sharpness(near, radius=0.1, steps=40) == pytest.approx(0.5 * 9 * 0.1**2, rel=1e-3), (
        "the top eigenvector"
    )


@pytest.mark.parametrize("batch_norm", ["batch", "eval"])
def test_a_network_rises_more_in_a_larger_box(batch_norm):
    objective = Objective(small_net(), cross_entropy, small_batches(2), batch_norm=batch_norm)
    small, large = box_sharpness(objective, epsilon=5e-4), box_sharpness(objective, epsilon=1e-3)
    assert 0 < small.value < large.value and small.base == large.base == objective.value()
    assert ascent_sharpness(objective, radius=0.01) > 0


def test_the_random_subspace_shows_curvature_and_not_the_slope_that_is_left_at_x():
    """Half the box, about a quarter of the rise; along columns of length 1 it would be 0.41 of it."""
    surface = Quadratic(torch.linspace(0, 30, 5000), at=0.1, minimum=0.099)
    large, small = (box_sharpness(surface, epsilon=epsilon, directions=100).value for epsilon in (1e-3, 5e-4))
    assert 3.5 < large / small < 4.1
