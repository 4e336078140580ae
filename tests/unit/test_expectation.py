"""A recipe's target is data: a finished run says met, not met or not comparable, and nothing else changes."""

import pytest
from omegaconf import OmegaConf

from lbtrain import BestBatch, Difference, Expectation, Recipe
from lbtrain.recipe import keys
from lbtrain.recipe.expectation import format_outcome
from lbtrain.run import run

EXPECTED = Expectation("top1_error", 23.74, 0.3, "Goyal et al. 2017, Table 1")


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(23.74, "met"), (24.03, "met"), (23.45, "met"), (24.05, "not met"), (23.4, "not met")],
)
def test_the_verdict_looks_at_both_sides(measured, verdict):
    compared = EXPECTED.compare([{"top1_error": 90.0}, {"top1_error": measured}])
    assert (compared["outcome"], compared["expected"], compared["measured"]) == (verdict, 23.74, measured)
    assert format_outcome(compared).endswith(f"measured {measured:.2f}: {verdict}")


FIVE = Expectation("top1_error", 23.74, 0.3, "Goyal et al. 2017, Table 1", evaluations=5)


def evaluated(*epochs: float) -> list[dict[str, float]]:
    return [{"top1_error": 23.74, "epoch": epoch} for epoch in epochs]


def test_the_median_of_the_last_evaluations():
    rows = [
        {"top1_error": error, "epoch": 85.001 + at}
        for at, error in enumerate((90.0, 24.0, 30.0, 23.8, 23.7, 23.9))
    ]
    compared = FIVE.compare(rows)
    assert (compared["measured"], compared["evaluations"], compared["outcome"]) == (23.9, 5, "met")


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        ((50, 60, 70, 80, 90), "after epochs 50, 60, 70, 80, 90, not after each of the last 5"),
        ((88, 88.5, 89, 89.5, 90), "after epochs 88, 88, 89, 89, 90"),
        ((70, 80, 88, 89, 90), "after epochs 70, 80, 88, 89, 90"),  # every 10 epochs until a resume
        ((30, 60, 90), "after epochs 30, 60, 90"),
        ((87, 88, 89, 90), "after epochs 87, 88, 89, 90"),
    ],
)
def test_a_median_over_other_epochs_is_another_quantity(epochs, said):
    compared = FIVE.compare(evaluated(*epochs))
    assert compared["outcome"] == "not comparable" and said in format_outcome(compared)
    assert EXPECTED.compare(evaluated(*epochs))["outcome"] == "met", "the last one is the last one"


@pytest.mark.parametrize("rows", [[], [{"epoch": 90.0, "loss": 1.0}]])
@pytest.mark.parametrize("evaluations", [1, 5])
def test_a_run_without_evaluations_is_not_comparable(rows, evaluations):
    found = Expectation("top1_error", 23.6, 0.3, "A paper", evaluations=evaluations).compare(rows)
    assert (found["outcome"], found["measured"], found["difference"]) == ("not comparable", None, None)
    assert found["reasons"] == ["no evaluation is recorded that has top1_error"]
    assert "not measured: not comparable: no evaluation" in format_outcome(found)


def test_where_the_evaluations_are_is_part_of_an_experiment_that_takes_a_median_of_them():
    changed = Recipe().vary(expect=FIVE).with_overrides(["evaluate_every=10ep", "data.workers=2"]).expect
    assert changed and changed.changed == ("evaluate_every is 10ep, not 1ep",)
    assert changed.compare(evaluated(86, 87, 88, 89, 90))["outcome"] == "not comparable"
    assert Recipe().vary(expect=EXPECTED).with_overrides(["evaluate_every=10ep"]).expect == EXPECTED


def test_a_change_of_the_experiment_is_named_and_what_is_none_is_not():
    recipe = Recipe().vary(expect=EXPECTED)
    same = recipe.with_overrides(
        ["seed=3", "data.root=/elsewhere", "micro_batch_size=32", "run_dir=x", "batch_size=256"]
    )
    assert same.expect == EXPECTED
    other = recipe.with_overrides(["batch_size=512", "schedule.warmup=1ep"]).with_overrides(["seed=1"])
    assert other.expect and other.expect.changed == (
        "batch_size is 512, not 256",
        "schedule.warmup is 1ep, not 5ep",
    )
    compared = other.expect.compare([{"top1_error": 23.74}])
    assert compared["outcome"] == "not comparable" and format_outcome(compared).endswith(
        "not 256; schedule.warmup is 1ep, not 5ep"
    )
    assert (
        recipe.with_overrides(["data.name=cifar10"]).expect.compare([{"top1_error": 23.74}])["outcome"]
        == "not comparable"
    )


def test_a_variant_does_not_inherit_it():
    parent = Recipe().vary(expect=EXPECTED)
    assert parent.vary(batch_size=512).expect is None and parent.expect is EXPECTED


def test_it_is_no_value_of_the_experiment():
    with_it, without = Recipe().vary(expect=EXPECTED), Recipe()
    assert with_it == without and with_it.to_yaml() == without.to_yaml()
    assert "expect" not in dict(keys()) and "expect" not in OmegaConf.create(with_it.to_yaml())


def test_a_run_writes_the_verdict_and_another_expectation_forbids_no_resume(tmp_path, monkeypatch, capfd):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    small = [
        "model.name=cifar_resnet8",
        "batch_size=32",
        "bn_batch_size=8",
        "evaluate_every=1dur",
        f"run_dir={tmp_path}",
        "engine=ddp",
    ]
    written = Recipe().with_overrides([*small, "duration=2it"])
    impossible = Expectation("top1_error", -50.0, 0.3, "nobody")
    summary = run(written.vary(expect=impossible), "x")
    assert (
        summary["expectation"]["outcome"] == "not met"
        and summary["expectation"]["measured"] == summary["top1_error"]
    )
    assert "expected top1_error -50 ± 0.3 (nobody)" in capfd.readouterr().out
    again = run(written.vary(expect=Expectation("top1_error", 0.0, 100.0, "anybody")), "x")
    assert again["expectation"]["outcome"] == "not met", "a finished run stays as it was compared"


POINT = Expectation("epochs", 35.0, 2.0, "mlperf_logging, training_4.0.0", target="top1_accuracy>=75.9")


@pytest.mark.parametrize(
    ("errors", "measured", "outcome"),
    [
        ({33: 24.2, 34: 24.1, 35: 24.3}, 34, "met"),
        ({37: 24.0}, 37, "met"),
        ({32: 24.0, 35: 24.0}, 32, "not met"),
        ({36: 24.2, 38: 24.0}, 38, "not met"),
        ({35: 24.2}, None, "not met"),
    ],
)
def test_epochs_to_a_target_count_to_the_first_evaluation_that_reaches_it(errors, measured, outcome):
    compared = POINT.compare([{"top1_error": error, "epoch": epoch} for epoch, error in errors.items()])
    assert (compared["measured"], compared["outcome"]) == (measured, outcome)
    assert compared["target"] == "top1_accuracy>=75.9"
    said = "not reached" if measured is None else f"measured {measured:.2f}"
    assert format_outcome(compared).endswith(f"to top1_accuracy>=75.9 ({POINT.source}), {said}: {outcome}")


def test_several_targets_are_reached_by_one_evaluation():
    both = Expectation("epochs", 13, 1, "x", target="box_ap>=37.7,mask_ap>=33.9")
    rows = [
        {"box_ap": 38.0, "mask_ap": 33.0, "epoch": 12},
        {"box_ap": 37.0, "mask_ap": 34.0, "epoch": 13},
        {"box_ap": 37.7, "mask_ap": 33.9, "epoch": 14},
    ]
    assert both.compare(rows)["measured"] == 14 and both.compare(rows[:2])["measured"] is None


def test_a_run_that_ends_early_is_another_experiment_unless_epochs_are_counted():
    early = ["stop_at=top1_accuracy>=60"]
    whole = Recipe().vary(expect=EXPECTED).with_overrides(early).expect
    assert whole and whole.changed == ("stop_at is top1_accuracy>=60, not ",)
    assert Recipe().vary(expect=POINT).with_overrides(early).expect == POINT
    seldom = Recipe().vary(expect=POINT).with_overrides(["evaluate_every=4ep"]).expect
    assert seldom and seldom.changed == ("evaluate_every is 4ep, not 1ep",)


@pytest.mark.parametrize(
    ("bound", "gap", "error", "said"),
    [
        ("+-0.5", 0.1, 0.3, "reproduced"),
        ("+-0.5", -0.9, 0.3, "not reproduced"),
        ("+-0.5", 0.4, 0.3, "open"),
        ("<=0.5", -3.0, 1.0, "reproduced"),
        (">0.0", 1.0, 0.5, "reproduced"),
        (">0.0", -1.0, 0.5, "not reproduced"),
        (">0.0", 1.0, 1.5, "open"),
    ],
)
def test_a_difference_is_reproduced_where_the_whole_interval_says_so(bound, gap, error, said):
    assert Difference("digits/digits", bound, "anybody").outcome(gap, error) == said


def test_a_finding_belongs_to_the_recipe_as_it_is_written():
    recipe = Recipe().vary(finding=BestBatch(2, 8, "anybody"))
    assert recipe.with_overrides(["seed=3", "data.workers=2"]).finding == recipe.finding
    assert (
        recipe.with_overrides(["duration=8ep"]).finding is None and recipe.vary(batch_size=4).finding is None
    )
    assert [recipe.finding.names(size) for size in (1, 2, 8, 9)] == [False, True, True, False]
    assert [recipe.finding.outcome(gap, 0.5) for gap in (-1.0, 0.2, 1.0)] == [
        "reproduced", "open", "not reproduced",
    ]  # fmt: skip
