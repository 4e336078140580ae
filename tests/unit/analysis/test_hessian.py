"""The spectrum of matrices whose eigenvalues are known, to 1e-4, and of a small network against torch's whole
Hessian.
"""

import pytest
import torch

from lbtrain.analysis import Objective, power_iteration, spectral_density, top_eigenvalues, trace
from lbtrain.analysis.objective import random_vector
from tests.unit.analysis.curvatures import Matrix, cross_entropy, small_batches, small_net
from tests.unit.analysis.test_objective import whole_hessian

BULK = torch.linspace(-1, 1, 280)
OUTLIERS = torch.tensor([50.0, 20.0, 19.0, 7.0, -30.0])


@pytest.fixture
def matrix():
    """A network's kind of spectrum: a bulk around zero, a few large eigenvalues, one large negative one."""
    return Matrix(torch.cat([BULK, OUTLIERS]))


def test_the_top_eigenvalues_of_a_known_spectrum(matrix):
    found = top_eigenvalues(matrix, 4, tolerance=1e-6)
    assert found.converged and found.products == matrix.products < 60
    assert found.values == pytest.approx([50, 20, 19, 7], rel=1e-4)
    assert found.smallest == pytest.approx(-30, rel=1e-4)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(4), rtol=0, atol=1e-4)
    images = (matrix.whole @ found.vectors.double().T).T
    torch.testing.assert_close(
        images, torch.tensor(found.values)[:, None].double() * found.vectors, rtol=0, atol=1e-2
    )
    assert [
        float((image - value * vector).norm())
        for image, value, vector in zip(images, found.values, found.vectors, strict=True)
    ] == (pytest.approx(found.residuals, abs=1e-3))


def test_a_basis_of_the_whole_space_gives_every_eigenvalue():
    """Without re-orthogonalisation Lanczos would find the outliers again and again in place of the bulk."""
    spectrum = torch.cat([torch.linspace(-1, 1, 56), OUTLIERS]).sort(descending=True).values
    found = top_eigenvalues(Matrix(spectrum), len(spectrum), steps=len(spectrum), tolerance=0)
    assert found.values == pytest.approx(spectrum.tolist(), abs=50 * 1e-4)


def test_too_few_steps_are_said_to_be_too_few(matrix):
    found = top_eigenvalues(matrix, 4, steps=5)
    assert not found.converged and max(found.residuals) > 0.1 and found.products == 5


def test_a_matrix_of_low_rank_ends_early_and_exactly():
    found = top_eigenvalues(Matrix(torch.tensor([5.0, 3.0, *[0.0] * 60])), 2)
    assert found.values == pytest.approx([5, 3], rel=1e-5) and found.products <= 4
    with pytest.raises(ValueError, match="k=3: this matrix has 2 eigenvalues"):
        top_eigenvalues(Matrix(torch.ones(2)), 3)


@pytest.mark.parametrize("sign", [1, -1])
def test_power_iteration_finds_the_largest_magnitude_with_its_sign(sign):
    matrix = Matrix(sign * torch.cat([BULK, torch.tensor([10.0, 5.0])]))
    found = power_iteration(matrix, tolerance=1e-6)
    assert found.value == pytest.approx(10 * sign, rel=1e-4) and found.products == matrix.products < 30
    assert power_iteration(matrix, iterations=3, tolerance=0).products == 3
    assert power_iteration(Matrix(torch.zeros(5))).value == 0


def test_the_trace_lies_in_its_interval_about_as_often_as_promised():
    spectrum = torch.cat([torch.linspace(-1, 1, 80), torch.tensor([3.0, 2.0, -1.0])])
    estimates = [trace(Matrix(spectrum, seed), samples=20, seed=100 * seed) for seed in range(60)]
    hits = sum(low <= 4 <= high for low, high in (estimate.interval for estimate in estimates))
    assert 51 <= hits <= 60
    # One sample varies by at most 2 |H|^2, so three standard errors of 60 x 20 samples are 0.8.
    assert sum(estimate.value for estimate in estimates) / 60 == pytest.approx(4, abs=0.8)


def test_known_eigenvectors_leave_a_narrow_interval(matrix):
    known = top_eigenvalues(matrix, 4, tolerance=1e-6)
    plain, deflated = trace(matrix, samples=20), trace(matrix, samples=20, known=known)
    exact = float(torch.cat([BULK, OUTLIERS]).sum())
    width = [high - low for low, high in (plain.interval, deflated.interval)]
    assert width[1] < 0.75 * width[0] and deflated.interval[0] <= exact <= deflated.interval[1]
    assert len(trace(Matrix(torch.ones(50)), tolerance=0.01).samples) == 10, (
        "signs give the trace of a diagonal matrix exactly"
    )


def test_the_density_puts_the_mass_where_the_eigenvalues_are(matrix):
    density = spectral_density(matrix, probes=8, steps=40)
    grid = torch.linspace(-40, 60, 4001)
    curve = density.on(grid, sigma=0.3)
    assert float(torch.trapezoid(curve, grid.double())) == pytest.approx(1, abs=1e-3)
    inside = (grid > -2.5) & (grid < 2.5)
    assert float(torch.trapezoid(curve[inside], grid[inside].double())) == pytest.approx(280 / 285, abs=0.02)


def test_the_moments_of_the_density_are_those_of_its_random_vectors(matrix):
    """A Gauss quadrature is exact for z'z, z'Hz and z'HHz; the mean of z'Hz over random signs is the
    trace.
    """
    density = spectral_density(matrix, probes=8, steps=40)
    samples = []
    for number, (nodes, weights) in enumerate(zip(density.nodes, density.weights, strict=True)):
        signs = random_vector(285, seed=number, device=torch.device("cpu"), signs=True).double()
        images = [signs, matrix.whole @ signs, matrix.whole @ matrix.whole @ signs]
        found = [
            285 * sum(weight * node**power for node, weight in zip(nodes, weights, strict=True))
            for power in (0, 1, 2)
        ]
        assert found == pytest.approx([float(signs @ image) for image in images], rel=1e-5)
        samples.append(found[1])
    # The variance of z'Hz over random signs is twice the sum of the squares off the diagonal.
    variance = 2 * float(matrix.whole.square().sum() - matrix.whole.diag().square().sum())
    exact = float(torch.cat([BULK, OUTLIERS]).sum())
    assert sum(samples) / 8 == pytest.approx(exact, abs=3 * (variance / 8) ** 0.5)
    assert trace(matrix, samples=8).samples == pytest.approx(samples, rel=1e-4)


def test_a_network_against_torchs_whole_hessian():
    net, batches = small_net(), small_batches(1)
    exact = torch.linalg.eigvalsh(whole_hessian(net, batches[0], "batch")[2].double())
    objective = Objective(net, cross_entropy, batches, batch_norm="batch", keep_graphs=True)
    found = top_eigenvalues(objective, 5, tolerance=1e-6)
    assert found.values == pytest.approx(exact.flip(0)[:5].tolist(), rel=1e-4, abs=1e-5)
    low, high = trace(objective, samples=40, known=found).interval
    assert low <= float(exact.sum()) <= high
