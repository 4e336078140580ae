"""Schedules and scaling rules against numbers worked out by hand, row by row around every edge."""

import math
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbtrain.errors import RecipeError
from lbtrain.plan.scaling import learning_rate, peak_lr, scaled_optimizer
from lbtrain.plan.schedules import (
    LearningRate,
    cosine_decay,
    from_table,
    polynomial_decay,
    scale_lr,
    step_decay,
    warmup,
)
from lbtrain.recipe import Recipe
from lbtrain.recipe.durations import Duration, TableEntry
from tests.recipes.tables import rows

IMAGENET = 1_281_167


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("5ep", 5, "ep"),
        ("500it", 500, "it"),
        ("0.05dur", 0.05, "dur"),
        (".5ep", 0.5, "ep"),
        ("0ep", 0, "ep"),
        ("1dur", 1, "dur"),
        ("2.50it", 2.5, "it"),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, value, unit):
    assert Duration.parse(text) == Duration(Decimal(str(value)), unit)
    assert Duration.parse(str(Duration.parse(text))) == Duration.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "ep",
        "5 ep",
        "5EP",
        "5e1ep",
        "-1ep",
        "+1ep",
        "5.ep",
        "5ep ",
        "5ep\n",
        "5epoch",
        "1.01dur",
        "٣ep",
        "1_0it",
        "",
        "nanep",
    ],
)
def test_any_other_duration_is_rejected(text):
    with pytest.raises(RecipeError, match=r"^schedule\.warmup="):
        Duration.parse(text, "schedule.warmup")


@pytest.mark.parametrize(
    ("text", "examples"),
    [
        ("5ep", 7200),
        ("1.1ep", 1584),
        ("0.07ep", 100.8),
        ("3it", 96),
        ("0.5it", 16),
        ("0.05dur", 1440),
        ("0.07dur", 2016),
        ("0.29dur", 8352),
        ("1dur", 28800),
    ],
)
def test_durations_in_examples_are_exact(text, examples):
    assert Duration.parse(text).examples(train_examples=1440, batch_size=32, total_examples=28800) == examples


@given(st.integers(0, 10**5), st.integers(0, 4), st.integers(1, 10**7))
def test_a_decimal_number_of_epochs_that_is_whole_is_whole(digits, places, epochs):
    text = f"{digits / 10**places:.{places}f}ep"
    train_examples = epochs * 10**places
    assert (
        Duration.parse(text).examples(train_examples=train_examples, batch_size=1, total_examples=1)
        == digits * epochs
    )


@pytest.mark.parametrize(
    ("batch_size", "linear", "sqrt"),
    [
        (64, 0.025, 0.05),
        (256, 0.1, 0.1),
        (257, 0.1 * 257 / 256, 0.1 * math.sqrt(257 / 256)),
        (1024, 0.4, 0.2),
        (8192, 3.2, 0.1 * math.sqrt(32)),
    ],
)
def test_scaling_rules(batch_size, linear, sqrt):
    assert scale_lr(0.1, 256, batch_size, "linear") == pytest.approx(linear, rel=1e-15)
    assert scale_lr(0.1, 256, batch_size, "sqrt") == pytest.approx(sqrt, rel=1e-15)
    assert scale_lr(0.1, 256, batch_size, "none") == 0.1


def test_the_momentum_buffer_keeps_the_noise_scale():
    """Smith et al. 2018: Wide ResNet 16-4 from batch 128, rate 0.1, momentum 0.9 to batch 3,200 and momentum
    0.98 has rate 0.5.
    """
    assert scale_lr(0.1, 128, 3200, "linear", momentum=0.98, base_momentum=0.9) == pytest.approx(
        0.5, rel=1e-12
    )
    assert scale_lr(0.1, 128, 640, "linear", momentum=0.9, base_momentum=0.9) == pytest.approx(0.5, rel=1e-12)
    assert scale_lr(0.1, 128, 512, "sqrt", momentum=0.95, base_momentum=0.9) == pytest.approx(0.1, rel=1e-12)


def test_a_rate_per_example_takes_the_step_of_a_loss_summed_over_the_batch():
    """Masters & Luschi 2018, section 2, "base learning rate"."""
    gradients = [0.5, -2.0, 0.25, 4.0]
    summed = 2**-7 * sum(gradients)
    assert scale_lr(2**-7, 1, 4, "linear") * (sum(gradients) / 4) == summed


def test_rates_from_a_table():
    table = [TableEntry.parse(text) for text in ("8192:16", "512:4", "64:1e-2")]
    assert [from_table(table, size) for size in (64, 512, 8192)] == [0.01, 4, 16]
    with pytest.raises(
        RecipeError, match=r"^batch_size=1024 is not in schedule.table; those there: 64, 512, 8192$"
    ):
        from_table(table, 1024)
    with pytest.raises(RecipeError, match="those there: none"):
        from_table([], 1024)
    with pytest.raises(RecipeError, match="twice"):
        from_table([*table, TableEntry(64, 0.1)], 64)


@pytest.mark.parametrize(
    "text",
    ["512", "512:", ":4", "512:0", "512:-1", "512:x", "0:1", "5.5:1", "512:4:4", "512:1e999", "512:inf"],
)
def test_any_other_entry_of_a_table_is_rejected(text):
    with pytest.raises(RecipeError, match=r"^schedule\.table="):
        TableEntry.parse(text, "schedule.table")


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (1, 0.1 + 3.1 / 5),
        (4, 0.1 + 3.1 * 4 / 5),
        (5, 3.2),
        (6, 3.2),
        (29, 3.2),
        (30, 0.32),
        (31, 0.32),
        (59, 0.32),
        (60, 0.032),
        (79, 0.032),
        (80, 0.0032),
        (89, 0.0032),
        (90, 0.0032),
    ],
)
def test_rows_around_every_edge_of_a_step_schedule(step, expected):
    """Ninety steps, one an epoch, warm-up over five."""
    rate = LearningRate(3.2, 0.1, 5 / 90, "gradual", "step", (30 / 90, 60 / 90, 80 / 90), (0.1, 0.1, 0.1))
    assert rate(step / 90) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        (
            "poly",
            {0: 1.0, 4: 1.8, 5: 2.0, 6: 2 * (44 / 45) ** 2, 27: 2 * (23 / 45) ** 2, 49: 2 / 45**2, 50: 0.0},
        ),
        (
            "cosine",
            {
                0: 1.0,
                4: 1.8,
                5: 2.0,
                6: 1 + math.cos(math.pi / 45),
                20: 1.5,
                35: 0.5,
                49: 1 - math.cos(math.pi / 45),
                50: 0.0,
            },
        ),
        ("none", {0: 1.0, 4: 1.8, 5: 2.0, 49: 2.0, 50: 2.0}),
    ],
)
def test_rows_of_the_continuous_decays(decay, expected):
    """Fifty steps, warm-up from 1 to 2 over the first five; the decay runs over the other 45."""
    rate = LearningRate(2.0, 1.0, 0.1, "gradual", decay, power=2.0)
    for step, value in expected.items():
        assert rate(step / 50) == pytest.approx(value, rel=1e-12, abs=1e-15), step


@pytest.mark.parametrize(("decay", "half"), [("poly", 0.25), ("cosine", 0.5)])
def test_a_decay_from_the_start_counts_the_warm_up(decay, half):
    """Caffe's poly policy: base_lr * (1 - iteration / max_iter) ** power, once its ramp-up is over."""
    rate = LearningRate(2.0, 0.0, 0.5, "gradual", decay, power=2.0, decay_start=0.0)
    assert rate(0.25) == 1.0 and rate(0.5) == pytest.approx(2.0 * half)
    assert LearningRate(2.0, 0.0, 0.5, "gradual", decay, power=2.0)(0.5) == 2.0
    recipe = Recipe().vary(schedule=dict(decay=decay, warmup="0.5dur", decay_from="start"))
    assert learning_rate(recipe, lambda duration: float(duration.value), 1)(0.5) == pytest.approx(
        recipe.schedule.base_lr * half * recipe.batch_size / recipe.schedule.base_batch_size
    )


@pytest.mark.parametrize(
    ("decay", "expected"),
    [("poly", {0: 0.0, 5: 2.0, 20: 0.2 + 1.8 * 0.25, 35: 0.2, 50: 0.2}),
     ("cosine", {0: 0.0, 5: 2.0, 20: 1.1, 35: 0.2, 50: 0.2})],
)  # fmt: skip
def test_a_decay_to_an_end_rate_that_ends_early(decay, expected):
    """Fifty steps: warm-up from 0 to 2 over five, decay to 0.2 over thirty, 0.2 for the rest (TensorFlow's
    PolynomialDecay; DeiT's cosine with a cooldown).
    """
    rate = LearningRate(2.0, 0.0, 0.1, "gradual", decay, power=2.0, decay_end=0.7, end=0.2)
    for step, value in expected.items():
        assert rate(step / 50) == pytest.approx(value, rel=1e-12, abs=1e-15), step
    changes = dict(decay=decay, end_lr=0.01, decay_until="0.7dur", warmup="0ep", base_lr=1.0)
    recipe = Recipe().vary(schedule=changes)
    planned = learning_rate(recipe, lambda duration: float(duration.value), 1)
    assert (planned.end, planned.decay_end, planned(0.8), planned(1)) == (0.01, 0.7, 0.01, 0.01)


@pytest.mark.parametrize(("batch_size", "momentum"), [(8192, 0.9), (32768, 0.94)])
def test_momentum_from_a_table_is_the_optimizers_and_the_rules(batch_size, momentum):
    table = dict(momentum_table=["8192:0.9", "32768:0.94"])
    rate = dict(base_lr=0.1, base_batch_size=256, base_momentum=0.9)
    recipe = Recipe().vary(batch_size=batch_size, optimizer=table, schedule=rate)
    assert scaled_optimizer(recipe).momentum == momentum
    assert peak_lr(recipe) == pytest.approx(0.1 * batch_size / 256 * (1 - momentum) / 0.1)
    with pytest.raises(RecipeError, match=r"batch_size=512 is not in optimizer.momentum_table"):
        scaled_optimizer(recipe.vary(batch_size=512))


@pytest.mark.parametrize("beta", [0.9, 0.8, 0.95, 0.98, 0.6])
@pytest.mark.parametrize("base", [32, 96, 256, 320])
def test_the_square_root_rule_reaches_the_batch_at_which_a_beta_is_0(beta, base):
    limit = round(base / (1 - beta))
    recipe = Recipe().vary(optimizer=dict(name="adamw", beta1=beta), bn_batch_size=32)
    recipe = recipe.vary(schedule=dict(rule="sqrt", base_batch_size=base))
    assert scaled_optimizer(recipe.vary(batch_size=limit)).beta1 == pytest.approx(0, abs=1e-12)
    with pytest.raises(RecipeError, match=r"Use batch_size=\d+ or less") as caught:
        scaled_optimizer(recipe.vary(batch_size=limit + 1))
    named = int(str(caught.value).rpartition("batch_size=")[2].split()[0])
    assert named % 32 == 0 and limit - 32 < named <= limit
    assert scaled_optimizer(recipe.vary(batch_size=named)).beta1 >= 0


def test_a_constant_warmup_stays_until_its_end():
    rate = LearningRate(3.2, 0.1, 0.1, "constant", "none")
    assert [rate(step / 50) for step in (0, 1, 4, 5, 6)] == [0.1, 0.1, 0.1, 3.2, 3.2]


def test_without_warmup_the_first_step_has_the_peak():
    assert LearningRate(3.2, 0.1, 0.0, "gradual", "step", (0.5,), (0.1,))(0) == 3.2
    assert LearningRate(3.2, 0.1, 0.0, "gradual", "cosine")(0) == 3.2


@pytest.mark.parametrize("decay", ["step", "poly", "cosine", "none"])
def test_a_warmup_as_long_as_the_run_or_longer_never_divides_by_zero(decay):
    for length in (1.0, 2.0):
        rate = LearningRate(2.0, 1.0, length, "gradual", decay, (0.5,), (0.1,))
        assert rate(0.5) == pytest.approx(1 + 0.5 / length)
        assert math.isfinite(rate(1.0))


def test_pieces_by_hand():
    assert warmup(0.25, 0.5, 1.0, 3.0) == 2.0
    assert [step_decay(progress, (0.2, 0.2, 0.6), (0.5, 0.5, 0.1)) for progress in (0.19, 0.2, 0.6)] == [
        1.0,
        0.25,
        0.025,
    ]
    assert [polynomial_decay(progress, 2) for progress in (0, 0.5, 1)] == [1, 0.25, 0]
    assert [cosine_decay(progress) for progress in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0], abs=1e-16)


def goyal(batch_size: int) -> LearningRate:
    peak = scale_lr(0.1, 256, batch_size, "linear")
    return LearningRate(
        peak, min(0.1, peak), 5 / 90, "gradual", "step", (30 / 90, 60 / 90, 80 / 90), (0.1, 0.1, 0.1)
    )


@pytest.mark.parametrize("batch_size", [128 * 2**k for k in range(10)])
def test_goyals_schedule_by_hand(batch_size):
    rate, peak = goyal(batch_size), 0.1 * batch_size / 256
    table = {
        0: min(0.1, peak),
        2.5: (min(0.1, peak) + peak) / 2,
        5: peak,
        29.99: peak,
        30: peak / 10,
        59.99: peak / 10,
        60: peak / 100,
        79.99: peak / 100,
        80: peak / 1000,
        89.99: peak / 1000,
    }
    for epoch, expected in table.items():
        assert rate(epoch / 90) == pytest.approx(expected, rel=1e-12), epoch


@pytest.fixture(scope="module")
def reference() -> list[dict[str, str]]:
    return rows("goyal2017")


def numbers(rows: list[dict[str, str]], metric: str) -> list[float]:
    return [
        float(row["value"])
        for row in rows
        if row["metric"] == metric and row["confidence"] == "seen" and row["model"] == "ResNet-50"
    ]


def test_goyals_settings_as_published(reference):
    (per_256,), (epochs,), (factor,) = (
        numbers(reference, name) for name in ("reference_lr_per_256_images", "epochs", "lr_decay_factor")
    )
    (warmup_epochs,), (start,) = numbers(reference, "warmup_epochs"), numbers(reference, "warmup_start_lr")
    assert scale_lr(per_256, 256, 8192, "linear") == pytest.approx(3.2, rel=1e-15)
    milestones = tuple(epoch / epochs for epoch in numbers(reference, "lr_decay_epoch"))
    published = LearningRate(
        3.2, start, warmup_epochs / epochs, "gradual", "step", milestones, (factor,) * len(milestones)
    )
    for epoch in (0, 1, 4.99, 5, 29.99, 30, 59.99, 60, 79.99, 80, 89.99):
        assert goyal(8192)(epoch / 90) == pytest.approx(published(epoch / epochs), rel=1e-12)


def test_goyals_rates_for_every_published_batch_size(reference):
    rows = [
        row for row in reference if row["location"] == "Figure 3 legend" and row["metric"] == "top1_error"
    ]
    assert [int(row["batch_size"]) for row in rows] == [128 * 2**k for k in range(10)]
    for row in rows:
        assert scale_lr(0.1, 256, int(row["batch_size"]), "linear") == pytest.approx(
            float(row["base_lr"]), rel=1e-12
        )


RATES = st.builds(
    LearningRate,
    peak=st.floats(0, 100),
    warmup_start=st.floats(0, 100),
    warmup_length=st.floats(0, 1.5),
    warmup_form=st.sampled_from(["gradual", "constant"]),
    decay=st.sampled_from(["step", "poly", "cosine", "none"]),
    milestones=st.lists(st.floats(0, 1), max_size=4).map(sorted).map(tuple),
    factors=st.just((0.5, 0.1, 1.0, 0.32)),
    power=st.floats(0.1, 5),
)


@settings(max_examples=200)
@given(RATES, st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 7))
def test_the_rate_depends_on_examples_and_not_on_how_the_batches_came(rate, batches, other):
    total = sum(batches)
    seen = [sum(batches[:count]) for count in range(len(batches))]
    at_these_positions = [rate(examples / total) for examples in seen]
    for examples in range(0, total, other):
        rate(examples / total)
    assert [rate(examples / total) for examples in reversed(seen)] == at_these_positions[::-1]


@settings(max_examples=200)
@given(RATES, st.floats(0, 1))
def test_a_rate_lies_between_zero_and_the_larger_of_peak_and_start(rate, progress):
    assert 0 <= rate(progress) <= max(rate.peak, rate.warmup_start) * (1 + 1e-12)


@settings(max_examples=200)
@given(st.integers(1, 10**6), st.integers(1, 4096), st.integers(1, 90), st.integers(0, 89))
def test_a_step_that_starts_on_a_milestone_is_decayed_and_the_one_before_is_not(
    train_examples, batch_size, epochs, milestone
):
    """Whatever the rounding of the two divisions."""
    milestone %= epochs
    total = train_examples * epochs
    at = milestone * train_examples
    rate = LearningRate(1.0, 1.0, 0.0, "gradual", "step", (at / total,), (0.5,))
    assert rate(at / total) == 0.5
    if at:
        assert rate((at - 1) / total) == 1.0
