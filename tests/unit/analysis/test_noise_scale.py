"""The estimator on gradients whose mean and covariance are known."""

import math
import statistics

import pytest
import torch

from lbtrain.analysis.noise_scale import WINDOW, Moments, RunningNoise, moments, noise_scale

SPREAD = torch.linspace(0.5, 2, 300)
"""Standard deviations of one example's gradient, element by element."""


def quadratic_steps(
    count: int, *, gradient_square: float, small: int, large: int, seed: int
) -> list[Moments]:
    """Steps of f(w) = mean |w - x|^2 / 2 at a w with |G|^2 known; one example's gradient w - x has covariance
    diag(SPREAD^2).
    """
    generator = torch.Generator().manual_seed(seed)
    true = torch.full((300,), math.sqrt(gradient_square / 300))
    found = []
    for _ in range(count):
        examples = true + SPREAD * torch.randn(large, 300, generator=generator)
        parts = [part.mean(0).square().sum() for part in examples.split(small)]
        found.append(
            moments(
                float(torch.stack(parts).mean()),
                float(examples.mean(0).square().sum()),
                small_batch=small,
                large_batch=large,
            )
        )
    return found


def test_the_formulas_by_hand():
    """|G|^2 = 3 and tr(S) = 40: a batch of 8 has 3 + 5, one of 20 has 3 + 2."""
    assert moments(8, 5, small_batch=8, large_batch=20) == pytest.approx((3, 40))
    for sizes in ((8, 8), (0, 8), (16, 8)):
        with pytest.raises(ValueError, match=f"small_batch={sizes[0]}"):
            moments(1, 1, small_batch=sizes[0], large_batch=sizes[1])


@pytest.mark.parametrize(("small", "large"), [(4, 8), (16, 64), (32, 512)])
def test_a_known_covariance_is_found_within_ten_percent(small, large):
    true = float(SPREAD.square().sum()) / 5
    found = noise_scale(quadratic_steps(200, gradient_square=5, small=small, large=large, seed=1))
    assert found.value == pytest.approx(true, rel=0.1) and found.low < true < found.high


def test_without_replacement_the_covariance_stays_and_the_gradient_is_that_behind_the_examples():
    """Batches of half the data, as at 720 images of digits: by sampling theory tr(S) is unbiased, |G|^2 less
    by tr(S)/N.
    """
    generator = torch.Generator().manual_seed(1)
    examples = 0.5 + torch.randn(64, 20, generator=generator)
    gradient, trace = float(examples.mean(0).square().sum()), float(examples.var(0).sum())
    found = []
    for _ in range(3000):
        batch = examples[torch.randperm(64, generator=generator)[:32]]
        small = batch.unflatten(0, (4, 8)).mean(1).square().sum(1).mean()
        found.append(
            moments(float(small), float(batch.mean(0).square().sum()), small_batch=8, large_batch=32)
        )
    noise = noise_scale(found)
    assert noise.trace == pytest.approx(trace, rel=0.01) and trace / 64 > 0.05 * gradient
    assert noise.gradient_square == pytest.approx(gradient - trace / 64, rel=0.01)


def test_the_interval_holds_the_truth_about_as_often_as_promised():
    true = float(SPREAD.square().sum()) / 2
    found = [
        noise_scale(quadratic_steps(20, gradient_square=2, small=8, large=32, seed=seed))
        for seed in range(200)
    ]
    hits = sum(each.low <= true <= each.high for each in found)
    assert 182 <= hits <= 198, "95% of 200, give or take two and a half standard deviations"


def test_averages_are_taken_before_dividing():
    """Where |G|^2 is noisy, the mean of the ratios is far off, or of either sign."""
    steps = quadratic_steps(400, gradient_square=2, small=8, large=32, seed=5)
    true = float(SPREAD.square().sum()) / 2
    assert noise_scale(steps).value == pytest.approx(true, rel=0.2)
    assert statistics.mean(step.trace / step.gradient_square for step in steps) != pytest.approx(
        true, rel=0.3
    )


def test_a_gradient_that_drowns_in_noise_has_only_a_lower_bound():
    found = noise_scale(quadratic_steps(50, gradient_square=0, small=8, large=16, seed=1))
    assert found.high == math.inf and found.low > 200
    assert noise_scale([Moments(-1.0, 5.0)]).value is None
    assert noise_scale([Moments(1.0, 5.0)]) == noise_scale([Moments(1.0, 5.0)])
    assert (noise_scale([Moments(1.0, 5.0)] * 2).low, noise_scale([Moments(1.0, 5.0)] * 2).high) == (
        0,
        math.inf,
    )
    exact = noise_scale([Moments(1.0, 5.0)] * 3)
    assert (exact.low, exact.value, exact.high) == pytest.approx((5, 5, 5))


def test_the_running_average_forgets_what_is_older_than_its_window():
    running = RunningNoise([Moments(1.0, 1000.0)] * 3)
    for _ in range(WINDOW):
        found = running.add(Moments(2.0, 8.0))
    assert found.measurements == WINDOW and found.value == pytest.approx(4)


def test_a_lower_bound_is_only_given_where_no_noise_is_not_possible():
    """The interval against its definition, ratio by ratio, on bursts: most measurements are small, a few
    speak for all.
    """
    without_bound = []
    for seed in range(100):
        values = torch.randn(
            20, 2, generator=torch.Generator().manual_seed(seed)
        ).double() ** 3 + torch.tensor([0.6, 1.2])
        found, (squares, traces) = noise_scale([Moments(*pair) for pair in values.tolist()]), values.T
        quantile = 2.093  # Student's t, 19 degrees of freedom, 95%

        def possible(
            ratio: float,
            squares: torch.Tensor = squares,
            traces: torch.Tensor = traces,
            quantile: float = quantile,
        ) -> bool:
            rest = traces - ratio * squares
            return bool(rest.mean().abs() <= quantile * rest.std() / math.sqrt(20))

        if found.high == math.inf:
            without_bound.append(found)
            assert (found.low == 0) == possible(0), seed
    assert {each.low == 0 for each in without_bound} == {True, False}
