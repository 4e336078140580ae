"""Plans: cuts that multiply up, numbers worked out by hand, refusals whose remedy works."""

import json
import math
import re
import runpy
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbtrain.data import dataset_info
from lbtrain.errors import RecipeError
from lbtrain.plan.batching import BatchSplit, Phase, phase_starts, split_batch, steps_before
from lbtrain.plan.plan import make_plan
from lbtrain.plan.report import notes, print_plans, rows
from lbtrain.plan.statistics import ModelStatistics, memory_estimate, model_statistics
from lbtrain.recipe import Recipe
from lbtrain.recipe.files import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
WORLDS = (8, 16, 32, 64, 128, 256)
IMAGENET = 1_281_167
COUNTED = ModelStatistics(
    parameters=1000,
    not_decayed=10,
    without_trust_ratio=12,
    batch_norm_layers=1,
    activation_bytes_per_image=100,
)
WITHOUT_NORM = ModelStatistics(
    parameters=1000,
    not_decayed=10,
    without_trust_ratio=12,
    batch_norm_layers=0,
    activation_bytes_per_image=100,
)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    (path,) = RECIPES.rglob(f"{name}.py")
    monkeypatch.syspath_prepend(str(path.parent))
    before = set(sys.modules)
    recipe = runpy.run_path(str(path))["recipe"]
    for module in set(sys.modules) - before:
        if str(RECIPES) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]
    return recipe


def small(**changes) -> Recipe:
    return Recipe().vary(batch_size=64, bn_batch_size=8, duration="20ep").vary(**changes)


def plan_of(recipe: Recipe, world_size: int = 1, engine: str = "ddp", counted: ModelStatistics = COUNTED):
    return make_plan(recipe, world_size, engine=engine, statistics=counted)


SIZES = dict(
    batch=st.integers(1, 600),
    world=st.integers(1, 32),
    ghost=st.integers(1, 40),
    micro=st.integers(0, 40),
    most=st.integers(0, 40),
)


@settings(max_examples=400)
@given(**SIZES)
def test_a_batch_split_multiplies_up_and_keeps_ghost_batches_whole(batch, world, ghost, micro, most):
    try:
        split = split_batch(batch, world, ghost, micro=micro, max_micro=most)
    except RecipeError:
        return
    size = split.micro_batch_size
    assert size * split.accumulation * world == batch
    assert split.ranks_per_ghost * size == ghost or (split.ranks_per_ghost == 1 and size % ghost == 0)
    assert world % split.ranks_per_ghost == 0
    assert not micro or size == micro
    assert micro or not most or size <= most


@settings(max_examples=300)
@given(**SIZES)
def test_a_batch_split_is_rejected_only_where_none_exists(batch, world, ghost, micro, most):
    def possible(size: int) -> bool:
        whole = size % ghost == 0 or (ghost % size == 0 and world % (ghost // size) == 0)
        return (
            batch % (size * world) == 0
            and whole
            and batch % ghost == 0
            and (size == micro if micro else size <= (most or size))
        )

    sizes = [size for size in range(1, batch + 1) if possible(size)]
    try:
        assert split_batch(batch, world, ghost, micro=micro, max_micro=most).micro_batch_size == max(sizes)
    except RecipeError:
        assert not sizes


@settings(max_examples=150)
@given(**SIZES)
def test_the_sizes_that_a_rejection_names_work(batch, world, ghost, micro, most):
    try:
        split_batch(batch, world, ghost, micro=micro, max_micro=most)
    except RecipeError as error:
        text = str(error)
        batches = re.search(r"Nearest valid batch_size on \d+ ranks?: (\d+)(?:, (\d+))?\.", text)
        worlds = re.search(r"Nearest valid numbers of ranks for this batch: (\d+)(?:, (\d+))?\.", text)
        assert batches or worlds or "Change bn_batch_size or" in text
        for size in batches.groups() if batches else ():
            assert not size or split_batch(int(size), world, ghost, micro=micro, max_micro=most)
        for size in worlds.groups() if worlds else ():
            assert not size or split_batch(batch, int(size), ghost, micro=micro, max_micro=most)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            dict(batch_size=720, world_size=7, ghost=8),
            "Nearest valid batch_size on 7 ranks: 672, 728. "
            "Nearest valid numbers of ranks for this batch: 6, 8.",
        ),
        (dict(batch_size=30, world_size=8, ghost=32), "Nearest valid batch_size on 8 ranks: 32."),
        (
            dict(batch_size=64, world_size=2, ghost=8, micro=7),
            "with micro_batch_size=7. Change bn_batch_size or micro_batch_size",
        ),
        (
            dict(batch_size=24, world_size=1, ghost=8, max_micro=3),
            "with max_micro_batch_size=3. Nearest valid numbers of ranks for this batch: 4.",
        ),
        (
            dict(batch_size=25, world_size=1, ghost=5, max_micro=3),
            "with max_micro_batch_size=3. Nearest valid numbers of ranks for this batch: 5.",
        ),
        (
            dict(batch_size=12, world_size=1, ghost=8, key="absa.max_batch_size"),
            "absa.max_batch_size: a batch of 12 cannot be split over 1 rank into ghost batches of "
            "bn_batch_size=8. Nearest valid batches on 1 rank: 8, 16.",
        ),
    ],
)
def test_rejections_by_hand(arguments, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        split_batch(**arguments)


@pytest.mark.parametrize(
    ("world", "split"),
    [(1, (32, 1, 1)), (2, (16, 1, 1)), (4, (8, 1, 1)), (8, (4, 1, 2)), (16, (2, 1, 4)), (32, (1, 1, 8))],
)
def test_the_split_of_32_images_in_ghosts_of_8(world, split):
    found = split_batch(32, world, 8)
    assert (found.micro_batch_size, found.accumulation, found.ranks_per_ghost) == split


def test_most_images_a_rank_are_kept_by_accumulating():
    found = split_batch(8192, 8, 32, max_micro=128)
    assert (found.micro_batch_size, found.accumulation, found.ranks_per_ghost) == (128, 8, 1)


def test_parameters_of_resnet50_by_hand(monkeypatch):
    recipe = load("resnet50_8k", monkeypatch)
    stem, blocks = 64, {64: 3, 128: 4, 256: 6, 512: 3}
    norm_channels = stem + sum(
        count * (width + width + 4 * width) + 4 * width for width, count in blocks.items()
    )
    assert norm_channels == 26_560
    counted = model_statistics(recipe, dataset_info(recipe.data))
    assert counted.not_decayed == 2 * norm_channels == 53_120
    assert counted.without_trust_ratio == 53_120 + 1000
    assert counted.batch_norm_layers == 1 + sum(3 * count + 1 for count in blocks.values()) == 53
    assert counted.parameters == 25_557_032


@pytest.mark.parametrize(
    ("name", "batch", "peak", "steps", "splits"),
    [
        (
            "resnet50",
            256,
            0.1,
            450_411,
            {8: (32, 1, 1), 16: (16, 1, 2), 32: (8, 1, 4), 64: (4, 1, 8), 128: (2, 1, 16), 256: (1, 1, 32)},
        ),
        (
            "resnet50_8k",
            8192,
            3.2,
            14_076,
            {
                8: (128, 8, 1),
                16: (128, 4, 1),
                32: (128, 2, 1),
                64: (128, 1, 1),
                128: (64, 1, 1),
                256: (32, 1, 1),
            },
        ),
    ],
)
def test_goyals_plans_from_8_to_256_ranks(monkeypatch, name, batch, peak, steps, splits):
    recipe = load(name, monkeypatch)
    for world in WORLDS:
        plan = plan_of(recipe, world)
        assert (plan.split.micro_batch_size, plan.split.accumulation, plan.split.ranks_per_ghost) == splits[
            world
        ]
        assert (plan.recipe.batch_size, plan.bn_batch_size, plan.ghost_batches_per_step) == (
            batch,
            32,
            batch // 32,
        )
        assert plan.total_steps == steps == math.ceil(90 * IMAGENET / batch)
        assert plan.steps_per_epoch == IMAGENET / batch
        assert plan.warmup_steps == pytest.approx(5 * IMAGENET / batch)
        rates = {
            0: 0.1,
            5: peak,
            29.999: peak,
            30: peak / 10,
            60: peak / 100,
            80: peak / 1000,
            89.999: peak / 1000,
        }
        for epoch, rate in rates.items():
            assert plan.lr(round(epoch * IMAGENET)) == pytest.approx(rate, rel=1e-9), epoch


def test_a_smaller_batch_than_the_reference_does_not_warm_up_from_above():
    plan = plan_of(Recipe().vary(batch_size=128, bn_batch_size=32))
    assert plan.learning_rate.warmup_start == plan.learning_rate.peak == 0.05


def test_a_start_that_was_asked_for_is_kept():
    plan = plan_of(Recipe().vary(schedule=dict(warmup_start_lr=0.0)))
    assert plan.lr(0) == 0.0


def test_the_last_step_may_be_short_of_a_batch_and_the_rate_stays_defined():
    plan = plan_of(small(batch_size=512, bn_batch_size=8, schedule=dict(decay="poly")))
    assert plan.total_examples == 28_800 and plan.total_steps == 57
    assert plan.lr(56 * 512) > 0
    assert plan.lr(57 * 512) == 0


def test_decimal_epochs_make_no_extra_step():
    assert plan_of(small(batch_size=16, duration="1.1ep")).total_steps == 99


@pytest.mark.parametrize(
    ("changes", "engine", "said"),
    [
        (
            dict(optimizer=dict(nesterov=True, momentum=0.0)),
            "ddp",
            "optimizer.nesterov=true has no effect with optimizer.momentum=0.0",
        ),
        (
            dict(engine="ddp", deepspeed=dict(zero_stage=1)),
            "ddp",
            "deepspeed.zero_stage=1 needs engine=deepspeed",
        ),
        (
            dict(micro_batch_size=16, max_micro_batch_size=8),
            "ddp",
            "micro_batch_size=16 is above max_micro_batch_size=8",
        ),
        (dict(log_every="0it"), "ddp", "log_every=0it must be positive"),
        (dict(evaluate_every="0ep"), "ddp", "evaluate_every=0ep"),
        (dict(checkpoint=dict(every="0dur")), "ddp", "checkpoint.every=0dur"),
        (dict(duration="0ep"), "ddp", "duration=0ep must be positive"),
        (dict(duration="0.5dur"), "ddp", "duration=0.5dur is a share of itself"),
        (dict(bn_batch_size=128), "ddp", "bn_batch_size=128"),
        (dict(bn_batch_size=7), "ddp", "bn_batch_size=7. Nearest valid batch_size on 1 rank: 63, 70."),
    ],
)
def test_impossible_combinations(changes, engine, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        plan_of(small(**changes), engine=engine)


def test_zero_of_another_form_counts_as_nothing():
    with pytest.raises(RecipeError, match=r"log_every=0\.000it must be positive"):
        plan_of(small(log_every="0.000it"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(model=dict(name="resnet51")), "model.name=resnet51"),
        (dict(model=dict(name="")), "model.name="),
        (dict(model=dict(name="resnet18", args={"no_such_argument": 1})), "no_such_argument"),
        (dict(optimizer=dict(no_decay=["nrom"])), "did you mean norm"),
        (dict(data=dict(name="imagefolder", root="/no/such/folder")), "no such folder"),
    ],
)
def test_a_model_or_filter_that_is_not_there_is_rejected(changes, said):
    with pytest.raises(RecipeError, match=said):
        make_plan(small(**changes), 1)


def test_ghost_size_does_not_bind_a_model_without_batch_norm():
    plan = plan_of(small(batch_size=63), world_size=3, counted=WITHOUT_NORM)
    assert plan.bn_batch_size == 1 and plan.split.micro_batch_size == 21
    assert rows(plan)["batch-norm batch"] == "no batch norm"


def test_memory_shrinks_by_what_each_stage_shards():
    recipe = small(optimizer=dict(name="lamb"))
    counted, world = ModelStatistics(1_000_000, 0, 0, 1, 7_000), 8
    stages = [
        memory_estimate(recipe.vary(deepspeed=dict(zero_stage=stage)), counted, 16, world, "deepspeed")
        for stage in range(4)
    ]
    weights = 4_000_000
    assert [stage["optimizer_states"] for stage in stages] == [2 * weights, *[2 * weights // world] * 3]
    assert [stage["gradients"] for stage in stages] == [weights, weights, weights // world, weights // world]
    assert [stage["weights"] for stage in stages] == [
        weights,
        weights * 9 // 8,
        weights * 9 // 8,
        weights // world,
    ]
    assert {stage["activations"] for stage in stages} == {16 * 7_000}
    totals = [sum(stage.values()) for stage in stages]
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == 4
    assert memory_estimate(recipe.vary(deepspeed=dict(zero_stage=3)), counted, 16, world, "ddp") == stages[0]
    assert (
        memory_estimate(recipe.vary(precision="bf16"), counted, 16, world, "ddp")["activations"] == 8 * 7_000
    )


def test_states_of_each_optimizer():
    def states(**optimizer) -> int:
        return memory_estimate(small(optimizer=optimizer), ModelStatistics(100, 0, 0, 1, 1), 1, 1, "ddp")[
            "optimizer_states"
        ]

    assert [
        states(name="sgd", momentum=0.0),
        states(name="sgd"),
        states(name="lars"),
        states(name="lamb"),
    ] == [0, 400, 400, 800]


@pytest.mark.parametrize(("name", "states"), [("sgd", 1), ("lars", 1), ("lamb", 2), ("muon", 2)])
def test_frozen_parameters_have_neither_gradient_nor_state(name, states):
    model = dict(name="cifar_resnet8", freeze=["conv1.*", "stages.0.*"])
    recipe = small(model=model, optimizer=dict(name=name))
    counted = model_statistics(recipe, dataset_info(recipe.data))
    trained = 4 * (counted.parameters - counted.untrained)
    assert 0 < counted.untrained < counted.frozen, "frozen batch norm has no parameters, and counts as such"
    memory = make_plan(recipe, 1).memory
    assert memory["weights"] == 4 * counted.parameters and memory["gradients"] == trained
    assert memory["optimizer_states"] == states * trained - 4 * counted.muon
    sharded = make_plan(recipe.vary(deepspeed=dict(zero_stage=1)), 2, engine="deepspeed").memory
    assert sharded["weights"] == 4 * counted.parameters + trained // 2


def test_products_with_the_hessian_keep_twice_the_activations():
    recipe = small(max_micro_batch_size=32)
    assert plan_of(recipe.vary(absa=dict(max_batch_size=128))).memory["activations"] == 2 * 32 * 100
    grown = small(absa=dict(max_batch_size=256))
    assert plan_of(grown).memory["activations"] == 256 * 100, "the largest batch holds more"


def test_activations_of_one_convolution_by_hand():
    """cifar_resnet8 on 8 x 8 digits keeps at least every convolution's input and grows with the square of the
    image.
    """
    small_images, large_images = (
        model_statistics(
            small(model=dict(name="cifar_resnet8"), data=dict(image_size=size)),
            dataset_info(small(data=dict(image_size=size)).data),
        )
        for size in (8, 16)
    )
    inputs = 4 * (64 * (1 + 16 + 16) + 64 * 16 + 16 * 32 + 16 * 32 + 4 * 64)
    assert small_images.activation_bytes_per_image > inputs
    assert 3.5 < large_images.activation_bytes_per_image / small_images.activation_bytes_per_image <= 4


def test_plan_json_says_everything():
    plan = plan_of(small(), 2)
    read = json.loads(plan.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert read["split"] == {"micro_batch_size": 32, "accumulation": 1, "ranks_per_ghost": 1}
    assert read["steps_per_epoch"] == 22.5
    assert read["learning_rate"]["peak"] == 0.1 * 64 / 256
    assert (
        read["world_size"] * read["split"]["micro_batch_size"] * read["split"]["accumulation"]
        == read["batch_size"]
        == 64
    )


def test_a_table_of_plans_shows_what_differs_and_what_was_rejected(capsys):
    recipe = small()
    print_plans([plan_of(recipe, world) for world in (1, 2)], {7: "because"})
    shown = capsys.readouterr().out
    assert re.search(r"^batch size \(global\) +64$", shown, re.M)
    assert re.search(r"^ *1 +64 x 1 ", shown, re.M) and re.search(r"^ *2 +32 x 1 ", shown, re.M)
    assert "rejected on 7 ranks: because" in shown


def test_notes_on_what_never_happens(capsys):
    plan = plan_of(small(duration="4ep"))
    assert notes(plan) == [
        "The warm-up is as long as the run, or longer: the peak learning rate is never reached.",
        "Some milestones lie beyond the end of the run.",
    ]


def test_a_decay_that_ends_after_the_run_keeps_its_shape_and_says_where_the_run_ends():
    schedule = dict(decay="poly", power=1.0, decay_until="40ep", warmup="0ep")
    plan = plan_of(small(schedule=schedule))
    peak = plan.learning_rate.peak
    assert plan.learning_rate.decay_end == 2 and plan.lr(plan.total_examples // 2) == peak * 3 / 4
    said = f"The run ends before schedule.decay_until=40ep, at a learning rate of {peak / 2}."
    assert said in notes(plan)
    assert rows(plan)["decay"] == "poly to 0, which it would reach at epoch 40"


@pytest.mark.parametrize("until", ["2ep", "5ep"])
@pytest.mark.parametrize("start", ["warmup_end", "start"])
def test_a_decay_that_ends_before_the_warm_up_is_rejected(until, start):
    changes = dict(decay="cosine", decay_until=until, decay_from=start)
    with pytest.raises(RecipeError, match=rf"schedule.decay_until={until} comes no later than .*warmup=5ep"):
        plan_of(small(schedule=changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(milestones=["4ep", "10ep"]), "Some milestones lie within the warm-up"),
        (dict(warmup="20ep", milestones=[]), "The warm-up is as long as the run, or longer"),
        (dict(base_lr=0.0), "The peak learning rate is 0 (schedule.base_lr): nothing is trained."),
    ],
)
def test_notes_on_a_schedule_that_contradicts_itself(changes, said):
    assert any(said in note for note in notes(plan_of(small(schedule=changes))))
    assert not any(said in note for note in notes(plan_of(small(schedule=dict(milestones=["5ep", "10ep"])))))


def test_notes_on_what_is_never_measured():
    said = "measure.noise_scale=21ep is longer than the run: nothing is measured."
    plan = plan_of(small(duration="20ep", measure=dict(noise_scale="21ep")))
    assert said in notes(plan)
    plan = plan_of(small(duration="20ep", measure=dict(noise_scale="20ep")))
    assert not [note for note in notes(plan) if "measured" in note]
    grown = small(duration="20ep", absa=dict(every="30ep", max_batch_size=128))
    assert "absa.every=30ep is longer than the run: nothing is measured." in notes(plan_of(grown))


def test_a_note_on_a_base_that_nothing_follows():
    def noted(**schedule) -> list[str]:
        plan = plan_of(small(schedule=dict(base_batch_size=32, warmup="1ep") | schedule))
        return [note for note in notes(plan) if "base_batch_size" in note]

    assert noted(rule="none") == ["schedule.base_batch_size=32 has no effect with schedule.rule=none."]
    assert noted(rule="none", base_batch_size=64) == []  # the run's own: where base_lr was found
    assert noted(rule="none", warmup_rule="linear") == noted(rule="none", regime_adaptation=True) == []
    assert noted(rule="linear") == noted(rule="sqrt") == []


@settings(max_examples=200)
@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(1, 5000), st.integers(2, 5)), max_size=4),
    st.integers(1, 6000),
)
def test_a_phase_begins_on_the_first_step_at_or_after_its_point(batch, growth, total):
    """Against a walk over the steps."""
    starts = phase_starts(batch, [(float(position), Fraction(factor)) for position, factor in growth])
    seen, steps = 0, 0
    while seen < total:
        size = batch * math.prod(factor for position, factor in growth if position <= seen)
        assert [found for start, found in starts if start <= seen][-1] == size
        seen += size
        steps += 1
    phases = [Phase(start, size, BatchSplit(1, size, 1)) for start, size in starts]
    assert math.ceil(steps_before(phases, total)) == steps


CIFAR = dict(data=dict(name="cifar10"), duration="200ep", bn_batch_size=128, max_micro_batch_size=128)
SMITH = {
    # Wide ResNet 16-4 on CIFAR-10, milestones 60, 120 and 160 epochs; the batch stops at 5,120, and the rate
    # falls from there.
    "original schedule": dict(batch_size=128, momentum=0.9),
    "increasing batch size": dict(
        batch_size=128, momentum=0.9, batch_growth=["60ep:5", "120ep:5", "160ep:1.6"]
    ),
    "increased initial lr + increasing batch size": dict(
        batch_size=640, momentum=0.9, batch_growth=["60ep:5", "120ep:1.6"]
    ),
    "increased momentum + increased initial lr + increasing batch size": dict(
        batch_size=3200, momentum=0.98, batch_growth=["60ep:1.6"]
    ),
}


@pytest.mark.parametrize(
    ("name", "updates"), [(name, n) for name, n in zip(SMITH, [78_125, 29_141, 6_407, 2_306], strict=True)]
)
def test_smiths_schedules_by_hand(name, updates):
    arm = SMITH[name]
    schedule = dict(base_batch_size=128, decay="none", warmup="0ep", batch_growth=arm.get("batch_growth", []))
    recipe = Recipe().vary(
        **CIFAR, batch_size=arm["batch_size"], optimizer=dict(momentum=arm["momentum"]), schedule=schedule
    )
    assert abs(plan_of(recipe).total_steps - updates) <= 1


@pytest.mark.parametrize("name", ["", "_growth", "_hybrid", "_growth_640", "_growth_3200"])
def test_smiths_recipes_all_cool_alike(monkeypatch, name):
    """The noise lr / (batch * (1 - momentum)) falls by 5 at epochs 60, 120 and 160, by the rate or by the
    batch.
    """
    recipe = load(f"wide_resnet{name}", monkeypatch)
    plan = make_plan(recipe, 1)
    examples = 0
    while examples < plan.total_examples:
        batch_size = plan.phase(examples).batch_size
        fallen = sum(examples >= epoch * plan.train_examples for epoch in (60, 120, 160))
        noise = plan.lr(examples) / batch_size / (1 - recipe.optimizer.momentum)
        assert math.isclose(noise, 0.1 / 128 / 0.1 / 5**fallen, rel_tol=1e-9), examples
        examples += batch_size


def test_milestones_with_factors_of_their_own_in_any_order():
    plan = plan_of(
        small(
            duration="90ep",
            schedule=dict(warmup="0ep", milestones=["80ep", "30ep:0.5", "60ep:0.2"], factor=0.1),
        )
    )
    assert plan.learning_rate.factors == (0.5, 0.2, 0.1)
    assert rows(plan)["decay"] == "step by 0.5, 0.2, 0.1 at epochs 30, 60, 80"


def test_a_growing_batch_is_split_phase_by_phase_and_printed():
    schedule = dict(batch_growth=["10ep:2", "15ep:4"], decay="none", warmup="1ep")
    plan = plan_of(
        small(duration="20ep", max_micro_batch_size=64, schedule=schedule, data=dict(name="digits")),
        world_size=2,
    )
    assert [(phase.start, phase.batch_size) for phase in plan.phases] == [
        (0, 64),
        (14_400, 128),
        (21_696, 512),
    ]
    assert [phase.split for phase in plan.phases] == [
        BatchSplit(32, 1, 1),
        BatchSplit(64, 1, 1),
        BatchSplit(64, 4, 1),
    ]
    assert [plan.phase(examples).batch_size for examples in (0, 14_399, 14_400, 21_695, 21_696, 28_800)] == [
        64,
        64,
        128,
        128,
        512,
        512,
    ]
    assert rows(plan)["batch changes"] == "to 128 (64 x 1) at epoch 10; to 512 (64 x 4) at epoch 15.07"
    assert (plan.recipe.batch_size, plan.split, plan.total_steps) == (64, BatchSplit(32, 1, 1), 225 + 57 + 14)
    assert json.loads(plan.to_json())["phases"][1] == dict(
        start=14_400,
        batch_size=128,
        split=dict(micro_batch_size=64, accumulation=1, ranks_per_ghost=1),
        lr_factor=1.0,
        bn_momentum=0.1,
        image_size=None,
    )


def test_steps_of_a_warmup_across_a_growing_batch():
    plan = plan_of(
        small(
            duration="20ep",
            schedule=dict(warmup="2ep", batch_growth=["1ep:2"], decay="none"),
            data=dict(name="digits"),
        )
    )
    assert plan.phases[1].start == 23 * 64
    assert plan.warmup_steps == 23 + (2 * 1440 - 23 * 64) / 128


@pytest.mark.parametrize(
    ("changes", "world", "said"),
    [
        (dict(schedule=dict(batch_growth=["1ep:1.2"])), 2, "76.8, which is not a whole number of images"),
        (dict(schedule=dict(batch_growth=["1ep:1.5"]), micro_batch_size=32), 1, None),
        (
            dict(schedule=dict(batch_growth=["1ep:1.5"]), micro_batch_size=32),
            2,
            "schedule.batch_growth: a batch of 96 cannot be split over 2 ranks",
        ),
    ],
)
def test_every_phase_must_divide(changes, world, said):
    recipe = small(data=dict(name="digits"), **changes)
    if said is None:
        assert plan_of(recipe, world).phases[1].split == BatchSplit(32, 3, 1)
        return
    with pytest.raises(RecipeError, match=re.escape(said)):
        plan_of(recipe, world)


@pytest.mark.parametrize(
    "text", ["60ep", "60ep:", "60ep:1", "60ep:0.5", "60:5", "ep:5", "0ep:5", "60ep:5x", "60ep:-2", "60ep:5:5"]
)
def test_a_point_of_growth_is_a_duration_and_a_factor(text):
    with pytest.raises(RecipeError, match=r"^schedule\.batch_growth="):
        Recipe().vary(schedule=dict(batch_growth=[text]))
    with pytest.raises(RecipeError, match=r"^schedule\.batch_growth="):
        Recipe().with_overrides([f"schedule.batch_growth=[{text}]"])


def test_growth_after_the_end_is_noted():
    plan = plan_of(
        small(duration="5ep", schedule=dict(batch_growth=["10ep:2"], decay="none"), data=dict(name="digits"))
    )
    assert len(plan.phases) == 1 and "beyond the end" in notes(plan)[-1]


def test_image_sizes_are_phases_whose_rate_follows_their_batch():
    sizes = ["0ep:4", "10ep:6:128", "15ep:8:64", "17ep:8"]
    plan = plan_of(small(schedule=dict(image_sizes=sizes, warmup="0ep"), data=dict(name="digits")))
    assert [(phase.start, phase.batch_size, phase.image_size, phase.lr_factor) for phase in plan.phases] == [
        (0, 64, 4, 1),
        (14_400, 128, 6, 2),
        (21_696, 64, 8, 1),
        (24_512, 64, 8, 1),
    ]
    said = rows(plan)
    assert said["image size"] == "4, 6 from epoch 10, 8 from epoch 15.07; 8 in evaluations"
    assert said["batch changes"] == (
        "to 128 (128 x 1) at epoch 10, peak rate 0.05; to 64 (64 x 1) at epoch 15.07, peak rate 0.025"
    )
    assert plan.total_steps == 225 + 57 + -(-(28_800 - 21_696) // 64)


@pytest.mark.parametrize(("rule", "factor"), [("linear", 4), ("sqrt", 2), ("none", 1), ("table", 5)])
def test_the_rate_follows_the_batch_of_an_image_size_by_the_recipes_rule(rule, factor):
    table = dict(table=["64:0.1", "256:0.5"]) if rule == "table" else {}
    schedule = dict(rule=rule, image_sizes=["1ep:8:256"], **table)
    plan = plan_of(small(schedule=schedule, data=dict(name="digits")))
    assert [phase.lr_factor for phase in plan.phases] == pytest.approx([1, factor])


@pytest.mark.parametrize(
    ("until", "text"),
    [("1dur", "poly to 0.02"), ("0.25dur", "poly to 0.01 or 0.02, depending on the batch, which it rea")],
)
def test_the_last_rate_is_the_one_that_is_trained(until, text):
    decay = dict(decay="poly", end_lr=0.01, decay_until=until, warmup="0ep", base_lr=1.0)
    resized = small(schedule=dict(image_sizes=["10ep:8:128"], **decay), data=dict(name="digits"))
    plan = plan_of(resized)
    last = plan.total_examples - 1
    assert plan.learning_rate(1) * plan.phase(last).lr_factor == 0.02
    assert rows(plan)["decay"].startswith(text)
    adaptive = rows(plan_of(small(schedule=decay, absa=dict(max_batch_size=256))))["decay"]
    assert adaptive.startswith("poly to 0.01 or 0.02 or 0.04, depending on the batch")


def test_image_sizes_alone_leave_a_batch_that_grows_in_place_of_the_rate():
    schedule = dict(batch_growth=["10ep:2"], image_sizes=["5ep:6"], decay="none")
    plan = plan_of(small(schedule=schedule, data=dict(name="digits")))
    assert [(phase.batch_size, phase.image_size, phase.lr_factor) for phase in plan.phases] == [
        (64, None, 1),
        (64, 6, 1),
        (128, 6, 1),
    ]
    assert rows(plan)["image size"] == "8, 6 from epoch 5.022; 8 in evaluations"
    assert "running statistics from images of 6 pixels a side" in notes(plan)[-1]


def test_the_memory_estimate_follows_the_image_size():
    def activations(*sizes: str) -> int:
        recipe = small(model=dict(name="cifar_resnet8"), schedule=dict(image_sizes=list(sizes)))
        return make_plan(recipe, 1).memory["activations"]

    whole = activations()
    assert activations("0ep:4") < whole / 3 < whole < activations("5ep:16") / 3
    assert activations("0ep:4", "5ep:8:32") < whole, "the smaller batch of the larger images"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(schedule=dict(image_sizes=["5ep:6:96"], batch_growth=["9ep:2"])), "both say how the batch"),
        (
            dict(schedule=dict(image_sizes=["5ep:6:96"]), absa=dict(max_batch_size=256)),
            "both say how the bat",
        ),
        (dict(schedule=dict(image_sizes=["5ep:6"]), absa=dict(max_batch_size=256)), "do not go together"),
        (dict(schedule=dict(image_sizes=["5ep:6:96"]), model=dict(batch_norm="sync")), "bn_batch_size that"),
        (
            dict(schedule=dict(batch_growth=["9ep:2"]), model=dict(batch_norm="sync")),
            "batch_growth changes",
        ),
        (dict(absa=dict(max_batch_size=256), model=dict(batch_norm="sync")), "max_batch_size changes here"),
        (dict(schedule=dict(image_sizes=["5ep:6:96", "5ep:8:64"])), "has several entries at 5ep,"),
        (dict(schedule=dict(image_sizes=["5ep:6", "9ep:8", "5.0ep:8"])), "entries at 5ep = 5.0ep,"),
        (dict(schedule=dict(image_sizes=["0ep:6", "0it:8"])), "has several entries at 0ep = 0it,"),
        (dict(schedule=dict(image_sizes=["5ep:6", "0.25dur:8"])), "several entries at 5ep = 0.25dur,"),
        (dict(schedule=dict(image_sizes=["9it:6:64", "0.4ep:8:96"])), "entries at 9it = 0.4ep,"),
        (dict(schedule=dict(image_sizes=["5ep:6:60"])), "of 60 cannot be split over 1 rank into ghost"),
        (dict(schedule=dict(rule="table", table=["64:1"], image_sizes=["5ep:6:96"])), "is not in sched"),
        (
            dict(schedule=dict(rule="sqrt", image_sizes=["5ep:6:96"]), optimizer=dict(name="adamw")),
            "at batch_size=96 the optimizer would have other moments",
        ),
        (
            dict(
                schedule=dict(image_sizes=["5ep:6:96"]),
                optimizer=dict(momentum_table=["64:0.9", "96:0.8"]),
            ),
            "at batch_size=96 the optimizer would have other moments or another momentum",
        ),
    ],
)
def test_batches_and_image_sizes_that_the_rest_cannot_follow_are_rejected(changes, said):
    base = {"bn_batch_size": 1} if "sync" in str(changes) else {}
    with pytest.raises(RecipeError, match=re.escape(said)):
        plan_of(small(**base, data=dict(name="digits")).vary(**changes))


def test_a_model_of_one_image_size_is_rejected_with_its_argument():
    recipe = small(model=dict(name="vit_tiny_patch16_224"), data=dict(name="synthetic", image_size=224))
    with pytest.raises(RecipeError, match="does not take images of 3 x 192 x 192"):
        make_plan(recipe.vary(schedule=dict(image_sizes=["0ep:192"])), 1)


@pytest.mark.parametrize(
    "text",
    ["10ep", "10ep:", "10ep:0", "10:192", "ep:192", "10ep:192x", "10ep:192:", "0ep:192:64", "1ep:2:3:4"],
)
def test_an_image_size_is_a_duration_pixels_and_perhaps_a_batch(text):
    with pytest.raises(RecipeError, match=r"^schedule\.image_sizes="):
        Recipe().vary(schedule=dict(image_sizes=[text]))


def test_the_memory_estimate_is_that_of_the_largest_micro_batch():
    schedule = dict(batch_growth=["10ep:2"], decay="none")
    grown, steady = (
        plan_of(small(data=dict(name="digits"), schedule=part)) for part in (schedule, dict(decay="none"))
    )
    assert grown.memory["activations"] == 2 * steady.memory["activations"]


DIGITS = dict(data=dict(name="digits"))


@pytest.mark.parametrize("times", [3, 5, 6, 7])
def test_a_constant_warm_up_that_is_stretched_ends_at_its_step(times):
    """Also where the shares of the run have no exact floats."""
    rate = dict(base_batch_size=128, base_lr=0.1, warmup="1it", warmup_rule="linear", warmup_form="constant")
    made = Recipe().vary(batch_size=128 * times, bn_batch_size=128, duration="90ep", schedule=rate)
    plan = plan_of(made.vary(data=dict(name="cifar10"), schedule=dict(warmup_start_lr=0.0)))
    rates = [plan.lr(step * plan.recipe.batch_size) for step in range(times + 1)]
    assert rates == [0.0] * times + [plan.learning_rate.peak]


def test_batch_norm_over_a_single_value_is_rejected():
    flat = load_recipe("digits/digits_keskar")
    with pytest.raises(RecipeError, match=r"bn_batch_size=1: .* a single value has no deviation"):
        make_plan(flat.vary(bn_batch_size=1), 1)
    assert make_plan(flat.vary(bn_batch_size=2), 1).statistics.batch_norm_positions == 1
    assert make_plan(load_recipe("digits/digits").vary(bn_batch_size=1), 1).bn_batch_size == 1


def test_a_table_of_rates_in_a_plan():
    schedule = dict(rule="table", table=["64:0.5", "512:2"], decay="none", warmup="1ep")
    plan = plan_of(small(**DIGITS, batch_size=512, schedule=schedule))
    assert (plan.learning_rate.peak, plan.learning_rate.warmup_start) == (2, 0.5)
    with pytest.raises(RecipeError, match=r"batch_size=128 is not in schedule.table; those there: 64, 512"):
        plan_of(small(**DIGITS, batch_size=128, schedule=schedule))
    with pytest.raises(
        RecipeError, match=r"schedule\.table=64:0\.5,512:2 has no effect with schedule\.rule=linear"
    ):
        plan_of(small(**DIGITS, schedule=schedule | dict(rule="linear")))


@pytest.mark.parametrize(
    ("batch", "lr", "warmup_epochs"),
    [(512, 4, 0.15625), (1024, 5.6569, 0.3125), (4096, 11.3137, 1.25), (8192, 16, 2.5), (16384, 22.6274, 5)],
)
def test_the_reproduced_table_of_lars(batch, lr, warmup_epochs):
    """Rates grow with the square root of the batch, warm-ups linearly."""
    schedule = dict(
        base_lr=4.0, base_batch_size=512, rule="sqrt", warmup="0.15625ep", warmup_rule="linear", decay="poly"
    )
    recipe = Recipe().vary(
        batch_size=batch, data=dict(name="imagenet"), optimizer=dict(name="lars"), schedule=schedule
    )
    plan = plan_of(recipe)
    assert plan.learning_rate.peak == pytest.approx(lr, rel=1e-4)
    assert plan.learning_rate.warmup_length * 90 == pytest.approx(warmup_epochs, rel=1e-12)
    assert notes(plan) == []


@pytest.mark.parametrize(("optimizer", "noted"), [("sgd", False), ("lars", True), ("lamb", True)])
def test_layerwise_optimizers_do_not_take_over_the_linear_rule_unnoticed(optimizer, noted):
    schedule = dict(rule="linear", decay="none")
    assert (
        any(
            "linear rule" in note
            for note in notes(plan_of(small(**DIGITS, optimizer=dict(name=optimizer), schedule=schedule)))
        )
        == noted
    )
    at_the_reference = schedule | dict(base_batch_size=64)
    assert not notes(plan_of(small(**DIGITS, optimizer=dict(name=optimizer), schedule=at_the_reference)))


def test_regime_adaptation_keeps_the_number_of_updates():
    """Hoffer et al. 2017: ResNet-44 on CIFAR-10, 128 to 4,096, milestones 81, 122 and 164 epochs."""
    schedule = dict(
        base_batch_size=128, rule="sqrt", warmup="5ep", milestones=["81ep", "122ep", "164ep", "0.99dur"]
    )
    few = Recipe().vary(
        batch_size=128, bn_batch_size=128, duration="200ep", data=dict(name="cifar10"), schedule=schedule
    )
    many = few.vary(batch_size=4096, schedule=dict(regime_adaptation=True))
    small_batch, large_batch = plan_of(few), plan_of(many)
    assert large_batch.regime_factor == 32 and rows(large_batch)["regime adaptation"] == "epochs x 32"
    assert large_batch.total_steps == small_batch.total_steps == 78_125
    assert large_batch.warmup_steps == small_batch.warmup_steps
    assert large_batch.learning_rate.milestones == small_batch.learning_rate.milestones
    assert large_batch.evaluate_every == small_batch.evaluate_every == 50_000
    assert large_batch.learning_rate.peak == pytest.approx(0.1 * math.sqrt(32), rel=1e-12)


def test_regime_adaptation_stretches_what_is_in_epochs_only():
    schedule = dict(
        base_batch_size=64, regime_adaptation=True, decay="none", warmup="30it", batch_growth=["2ep:2"]
    )
    plan = plan_of(small(**DIGITS, batch_size=144, duration="4ep", schedule=schedule))
    assert plan.regime_factor == 3  # the ceiling of 2.25
    assert (plan.total_examples, plan.phases[1].start, plan.warmup_steps) == (12 * 1440, 6 * 1440, 30)
    assert (
        plan_of(
            small(**DIGITS, batch_size=32, schedule=dict(base_batch_size=64, regime_adaptation=True))
        ).regime_factor
        == 1
    )


@pytest.mark.parametrize("batch", [2, 4, 8, 16, 32, 64])
def test_a_rate_per_example_and_a_warmup_from_a_share_of_it(batch):
    """Masters & Luschi 2018: a base rate of 2^-8 for every batch; section 3.4: warm-up from 1/32 of the rate
    over 5% of the run.
    """
    schedule = dict(
        base_lr=2**-8, base_batch_size=1, warmup="0.05dur", warmup_start_share=1 / 32, decay="none"
    )
    plan = plan_of(small(**DIGITS, batch_size=batch, bn_batch_size=2, schedule=schedule))
    assert plan.learning_rate.peak == batch * 2**-8
    assert plan.learning_rate.warmup_start == batch * 2**-13
    assert rows(plan)["peak rate per example"] == "0.00390625"
    assert plan.ghost_batches_per_step == batch // 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(schedule=dict(warmup_start_lr=0.1, warmup_start_share=0.1)), "Set one of the two"),
        (
            dict(optimizer=dict(name="lamb"), schedule=dict(base_momentum=0.9)),
            "schedule.base_momentum=0.9 has no effect with optimizer.name=lamb",
        ),
        (
            dict(batch_size=512, schedule=dict(regime_adaptation=True, warmup_rule="linear")),
            r"both lengthen the warm-up .* schedule\.warmup_rule=none",
        ),
        (
            dict(batch_size=64, schedule=dict(rule="table", table=["64:1"], base_momentum=0.9)),
            "schedule.base_momentum=0.9 has no effect with schedule.rule=table",
        ),
    ],
)
def test_scaling_keys_that_contradict_each_other(changes, said):
    with pytest.raises(RecipeError, match=said):
        plan_of(small(**DIGITS, **changes))


@pytest.mark.parametrize("changes", [dict(warmup="30it"), dict(base_batch_size=1024)])
def test_a_warmup_that_is_not_stretched_twice_is_planned(changes):
    plan_of(
        small(**DIGITS, batch_size=512, schedule=dict(regime_adaptation=True, warmup_rule="linear") | changes)
    )


def test_a_warmup_that_would_fall_is_noted():
    """The rate that a warm-up starts at stays where a smaller batch lowers the peak."""
    start = dict(base_lr=0.02, base_batch_size=16, warmup_start_lr=0.02 / 3, decay="none")
    assert not notes(plan_of(small(**DIGITS, batch_size=16, schedule=start)))
    (note,) = notes(plan_of(small(**DIGITS, batch_size=4, bn_batch_size=2, schedule=start)))
    assert (
        "starts at 0.00666667, above the peak learning rate of 0.005" in note
        and "schedule.warmup_start_share" in note
    )


@pytest.mark.parametrize(
    "name", ["mask_rcnn_goyal", "mask_rcnn_goyal_8", "mask_rcnn_goyal_4", "mask_rcnn_goyal_2"]
)
def test_every_row_of_goyals_table_3b_warms_up_from_a_third_of_its_rate(name, monkeypatch):
    recipe = load(name, monkeypatch)
    rate = plan_of(recipe, 1, counted=WITHOUT_NORM).learning_rate
    assert (rate.peak, rate.warmup_start) == pytest.approx(
        (0.02 * recipe.batch_size / 16, 0.02 * recipe.batch_size / 48)
    )


def test_what_a_detector_neither_loads_nor_trains_is_noted(monkeypatch):
    recipe = load("mask_rcnn", monkeypatch)
    (note,) = notes(plan_of(recipe, counted=WITHOUT_NORM))
    assert note.startswith(
        "The frozen layers conv1, bn1, layer1 and the frozen batch-norm statistics of the backbone keep "
        "their random"
    )
    assert not notes(plan_of(recipe.vary(model=dict(weights="resnet50.pt")), counted=WITHOUT_NORM))
    assert not notes(plan_of(recipe.vary(model=dict(batch_norm="ghost", args={})), counted=WITHOUT_NORM))


@pytest.mark.parametrize(
    "data",
    [
        dict(augmentation="imagenet"),
        dict(auto_augment="rand-m9"),
        dict(color_jitter=0.4),
        dict(random_erasing=0.25),
    ],
)
def test_augmentation_of_synthetic_images_is_noted_as_absent(data):
    note = "The images of data.name=synthetic are not augmented."
    plain = dict(name="synthetic", image_size=64)
    assert note in notes(plan_of(small(data=plain | data)))
    assert note not in notes(plan_of(small(data=plain)))


def test_keys_of_batch_norm_are_noted_where_the_model_has_none():
    recipe = small(**DIGITS, bn_momentum=0.3, bn_update="ghost_batch", duration="90ep")
    assert not notes(plan_of(recipe))
    assert notes(plan_of(recipe, counted=WITHOUT_NORM)) == [
        "bn_batch_size=8 bn_momentum=0.3 bn_update=ghost_batch has no effect: the model has no batch norm."
    ]
    (note,) = notes(plan_of(Recipe().vary(model=dict(batch_norm="sync")), counted=WITHOUT_NORM))
    assert note.startswith("model.batch_norm=sync has no effect")
    assert not notes(plan_of(Recipe(), counted=WITHOUT_NORM))


@pytest.mark.parametrize(
    "groups", [dict(loss=dict(mixup=0.2)), dict(loss=dict(cutmix=1.0)), dict(data=dict(repeats=3))]
)
def test_the_groups_in_which_images_are_mixed_or_repeated_act_without_batch_norm(groups):
    recipe = small(**DIGITS, duration="90ep").vary(**groups)
    assert not notes(plan_of(recipe, counted=WITHOUT_NORM))
    assert recipe.vary(model=dict(batch_norm="sync")).bn_batch_size == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(data=dict(augmentation="imagenet")), "data.augmentation=imagenet is for photos; digits takes"),
        (dict(data=dict(name="imagenet", augmentation="crop_flip")), "data.augmentation=crop_flip: imagenet"),
        (dict(data=dict(image_size=16)), "data.image_size=16: the images of digits have 8 pixels a side"),
        (dict(world_size=8), "world_size=8 rejects every other number of ranks. Use 8"),
    ],
)
def test_what_every_run_refuses_is_not_planned(changes, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        plan_of(small(**changes), 2)
    plan_of(small(world_size=2, data=dict(image_size=8, augmentation="crop_flip")), 2)


@pytest.mark.parametrize("groups", [dict(loss=dict(mixup=0.2)), dict(data=dict(repeats=3))])
@pytest.mark.parametrize("norm", ["none", "sync"])
def test_a_batch_holds_whole_groups_in_which_images_are_mixed_or_repeated(norm, groups):
    counted = WITHOUT_NORM if norm == "none" else COUNTED
    model = dict(model=dict(batch_norm="sync")) if norm == "sync" else {}
    recipe = Recipe().vary(batch_size=96, bn_batch_size=32, duration="90ep", **DIGITS).vary(**model)
    plan_of(recipe.vary(batch_size=100), 2, counted=counted)
    recipe = recipe.vary(bn_batch_size=32, **groups)
    assert plan_of(recipe, 2, counted=counted).split == BatchSplit(48, 1, 2 if norm == "sync" else 1)
    with pytest.raises(
        RecipeError, match=r"the groups of bn_batch_size=32 in .*batch_size on 2 ranks: 96, 128"
    ):
        plan_of(recipe.vary(batch_size=100), 2, counted=counted)


def test_the_images_that_are_loaded_for_partners_alone_are_noted():
    recipe = small(**DIGITS, duration="90ep", loss=dict(cutmix=1.0))
    assert not notes(plan_of(recipe, 8, counted=WITHOUT_NORM))
    (note,) = notes(plan_of(recipe, 16, counted=WITHOUT_NORM))
    assert note == (
        "Mixup and CutMix pair images in groups of bn_batch_size=8: a rank loads 2 times the images that it "
        "trains on, 4 at a time."
    )


def test_an_average_of_the_weights_costs_their_memory():
    with_average = plan_of(small(**DIGITS, ema=dict(decay=0.99))).memory
    assert with_average["average"] == 4 * COUNTED.parameters
    assert plan_of(small(**DIGITS)).memory == with_average | dict(average=0)


def mask_rcnn(monkeypatch: pytest.MonkeyPatch, **changes) -> Recipe:
    return load("mask_rcnn", monkeypatch).vary(model=dict(weights="resnet50.pt")).vary(**changes)


@pytest.mark.parametrize("library", ["torchvision", "detectron2"])
@pytest.mark.parametrize("augmentation", ["imagenet", "imagenet_color", "alexnet", "crop_flip"])
def test_an_augmentation_of_classifiers_is_rejected_for_detection(monkeypatch, library, augmentation):
    recipe = mask_rcnn(
        monkeypatch, data=dict(augmentation=augmentation), model=dict(library=library, args={})
    )
    with pytest.raises(
        RecipeError,
        match=rf"data.augmentation={augmentation} (is for classifiers|has no effect).*library={library}",
    ):
        plan_of(recipe, counted=WITHOUT_NORM)


def test_keys_that_detectron2_does_not_read_are_reset_or_rejected(monkeypatch):
    theirs = mask_rcnn(monkeypatch, model=dict(library="detectron2", args={}))
    assert (theirs.data.short_edges, theirs.data.max_size, theirs.data.augmentation) == ([], 0, "none")
    assert not notes(plan_of(theirs, counted=WITHOUT_NORM))
    with pytest.raises(RecipeError, match=r"data\.max_size=800 has no effect with model\.library=detectron2"):
        plan_of(theirs.vary(data=dict(max_size=800)), counted=WITHOUT_NORM)


def test_the_plan_says_when_a_run_in_fp16_ends():
    assert rows(plan_of(small()))["precision"] == "fp32"
    limited = rows(plan_of(small(precision="fp16", max_overflows=7)))["precision"]
    assert limited == "fp16; ends after 7 overflows in a row, or at a scale below 1"
