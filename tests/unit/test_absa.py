"""ABSA's decisions against the authors' rule written out, its plan, and FGSM by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lbtrain.errors import RecipeError
from lbtrain.plan.batching import BatchSplit, Phase
from lbtrain.plan.plan import Plan, make_plan
from lbtrain.plan.report import rows
from lbtrain.plan.statistics import ModelStatistics
from lbtrain.recipe import Recipe
from lbtrain.runs.progress import Progress
from lbtrain.tasks import Losses
from lbtrain.techniques import AdaptiveBatches, fgsm

COUNTED = ModelStatistics(
    parameters=1000,
    not_decayed=10,
    without_trust_ratio=12,
    batch_norm_layers=1,
    activation_bytes_per_image=100,
)


def recipe(**absa) -> Recipe:
    return Recipe().vary(
        batch_size=128,
        bn_batch_size=32,
        duration="90ep",
        data=dict(name="cifar10"),
        absa=dict(max_batch_size=1024) | absa,
    )


def plan_of(changed: Recipe, **where) -> Plan:
    return make_plan(changed, 1, statistics=COUNTED, **where)


def control(measured: list[float], changes: dict | None = None, **absa) -> AdaptiveBatches:
    """A control whose measurements are given."""
    made = recipe(**absa).vary(**changes or {})
    records = SimpleNamespace(write=lambda row: None)
    engine = SimpleNamespace(device=torch.device("cpu"), rank=0, world_size=1)
    adaptive = AdaptiveBatches(plan_of(made), nn.Identity(), None, engine, records)
    values = iter(measured)
    adaptive.eigenvalue = lambda examples: next(values)
    return adaptive


def climbed(adaptive: AdaptiveBatches, epochs: int) -> list[int]:
    """The batch size from each epoch's end on."""
    return [adaptive.phase(Progress(50_000 * epoch, epoch)).batch_size for epoch in range(1, epochs + 1)]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_curvature_is_taken_in_the_precision_of_the_run(precision, dtype):
    """The module is bare: DeepSpeed would apply autocast around it, DDP in it."""
    adaptive = control([])
    adaptive.plan = plan_of(recipe().vary(precision=precision))
    adaptive.task = SimpleNamespace(loss=lambda model, batch: SimpleNamespace(total=model(batch)))
    assert adaptive._loss(nn.Linear(3, 2), torch.randn(4, 3)).dtype == dtype


@pytest.mark.parametrize(
    ("measured", "batches"),
    [
        ([8, 5, 4, 3, 2.1, 2, 1, 0.4], [128, 128, 256, 256, 256, 512, 1024, 1024]),
        ([8, 16, 8, 4.1, 4], [128, 128, 128, 128, 256]),
        ([8, 1, 0.6, 0.5], [128, 256, 256, 512]),
        (
            [8, -9, -4.5, -4, 3, 2],
            [128, 128, 128, 256, 256, 512],
        ),  # the largest in size may be negative, and is no flatter for that
    ],
)
def test_half_the_reference_doubles_the_batch_and_becomes_the_reference(measured, batches):
    assert climbed(control(measured), len(measured)) == batches


def test_ten_epochs_without_growth_double_the_batch_and_leave_the_reference():
    adaptive = control([8.0] * 30)
    assert climbed(adaptive, 30) == [128] * 9 + [256] * 10 + [512] * 10 + [1024]
    assert adaptive.reference == 8.0
    assert climbed(control([8.0] * 30, patience=0), 30) == [128] * 30


def test_growth_starts_the_patience_anew():
    assert climbed(control([8.0] * 4 + [4.0] * 11), 15) == [128] * 4 + [256] * 10 + [512]


def test_nothing_is_measured_twice_or_at_the_end_or_at_the_top():
    adaptive = control([8.0])
    assert [adaptive.phase(Progress(50_000 + 100 * again, 1)).batch_size for again in range(3)] == [128] * 3
    assert control([]).phase(Progress(90 * 50_000, 1)).batch_size == 128
    top = control([])
    top.level = 3
    assert top.phase(Progress(70_000, 1)).batch_size == 1024


def test_a_longer_leg_goes_on_measuring_by_its_own_interval():
    """Nine intervals of 9 epochs each have passed, and a tenth of the next leg are 18."""
    short = control([8.0] * 9, every="0.1dur", patience=0)
    climbed(short, 90)
    longer = control([7.0, 3.5, 1.5, 0.5], {"duration": "180ep"}, every="0.1dur", patience=0)
    longer.load(short.state())
    sizes = [longer.phase(Progress(50_000 * epoch, epoch)).batch_size for epoch in range(90, 145)]
    assert {epoch: sizes[epoch - 90] for epoch in (90, 107, 108, 126, 144)} == {
        90: 128, 107: 128, 108: 256, 126: 512, 144: 1024,
    }  # fmt: skip


@pytest.mark.parametrize("times", [0, 1, 3, 7])
def test_a_checkpoint_that_counts_measurements_goes_on_at_the_next(times):
    adaptive = control([8.0])
    adaptive.load({"absa": {"level": 0, "measured": times, "without_growth": 0, "reference": None}})
    next_one = 50_000 * (times + 1)
    for examples, reference in ((50_000 * times, None), (next_one - 1, None), (next_one, 8.0)):
        adaptive.phase(Progress(examples, 1))
        assert adaptive.reference == reference


def test_decisions_survive_a_restart():
    straight, stopped = control([8.0, 6, 5, 4, 4, 2]), control([8.0, 6, 5])
    expected = climbed(straight, 6)
    first = climbed(stopped, 3)
    resumed = control([4.0, 4, 2])
    resumed.load(stopped.state())
    assert (
        first + [resumed.phase(Progress(50_000 * epoch, epoch)).batch_size for epoch in (4, 5, 6)] == expected
    )
    assert resumed.state() == straight.state()


@pytest.mark.parametrize(
    "changes",
    [
        {"level": 4},
        {"level": -1},
        {"level": "high"},
        {"level": None},
        {"reference": "low"},
        {"measured_at": -1},
        {"measured": -1},
    ],
)
def test_decisions_that_it_never_took_are_rejected(changes):
    adaptive = control([])
    with pytest.raises((TypeError, ValueError)):
        adaptive.load({"absa": adaptive.state()["absa"] | changes})
    assert adaptive.state() == control([]).state()


def test_the_batch_sizes_of_a_plan():
    plan = plan_of(recipe(max_batch_size=700).vary(max_micro_batch_size=128, bn_batch_size=4))
    assert [phase.batch_size for phase in plan.phases] == [128, 256, 512, 700]
    assert [phase.split for phase in plan.phases] == [
        BatchSplit(128, 1, 1),
        BatchSplit(128, 2, 1),
        BatchSplit(128, 4, 1),
        BatchSplit(100, 7, 1),
    ]
    assert [phase.lr_factor for phase in plan.phases] == [1, 2, 4, 700 / 128]
    assert rows(plan)["batch changes"] == (
        "to 256 (128 x 2) as the loss flattens, peak rate 0.1; "
        "to 512 (128 x 4) as the loss flattens, peak rate 0.2; "
        "to 700 (100 x 7) as the loss flattens, peak rate 0.273438"
    )
    assert rows(plan)["total steps"].startswith("at most ")
    assert [phase.start for phase in plan.phases] == [0, None, None, None]
    assert plan.phase(10**9) == plan.phases[0], "the plan alone never leaves the first batch size"
    adaptive = control([])
    assert (adaptive.every, adaptive.adversarial_until) == (50_000, 45 * 50_000)


@pytest.mark.parametrize(
    ("changes", "engine", "said"),
    [
        (dict(absa=dict(max_batch_size=128)), "ddp", "must be above batch_size=128"),
        (dict(absa=dict(max_batch_size=1025)), "ddp", "absa.max_batch_size: a batch of 1025 cannot be split"),
        (dict(schedule=dict(batch_growth=["1ep:2"])), "ddp", "Set one of the two"),
        (dict(deepspeed=dict(zero_stage=3)), "deepspeed", "Use deepspeed.zero_stage=0, 1 or 2, not 3"),
        (
            dict(absa=dict(max_batch_size=0), ema=dict(decay=0.9), deepspeed=dict(zero_stage=3)),
            "deepspeed",
            "ema.decay=0.9 needs whole weights",
        ),
        (dict(absa=dict(every="0ep")), "ddp", "absa.every=0ep must be positive"),
        (dict(precision="fp16"), "ddp", "vanish in fp16. Use precision=bf16"),
    ],
)
def test_what_cannot_be_is_rejected_when_the_plan_is_made(changes, engine, said):
    with pytest.raises(RecipeError, match=said):
        plan_of(recipe().vary(**changes), engine=engine)


def test_fgsm_of_a_linear_loss_by_hand():
    """The gradient of w.x is w: every pixel moves by epsilon in the direction of its weight, and stays within
    the range.
    """
    weight = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    images = torch.tensor([[[[0.5, 0.5], [0.5, 0.95]]]])
    low, high = torch.tensor(0.45), torch.tensor(1.0)
    moved = fgsm(
        nn.Flatten(),
        lambda model, batch: (model(batch[0]) @ weight.flatten()).sum(),
        (images,),
        0.1,
        low=low,
        high=high,
    )
    torch.testing.assert_close(moved, torch.tensor([[[[0.6, 0.45], [0.5, 1.0]]]]))
    assert not moved.requires_grad and images[0, 0, 0, 0] == 0.5


@pytest.mark.parametrize(("sign", "expected"), [(1.0, [1.3, -0.3]), (-1.0, [1.2, -0.4])])
def test_a_pixel_beyond_the_range_moves_by_epsilon_at_most(sign, expected):
    """Colours that an augmentation has moved, or random erasing: cut off, they would jump."""
    images = torch.tensor([[[[1.3, -0.4]]]])
    ends = dict(low=torch.tensor(0.0), high=torch.tensor(1.0))
    moved = fgsm(nn.Flatten(), lambda _, batch: sign * batch[0].sum(), (images,), 0.1, **ends)
    torch.testing.assert_close(moved, torch.tensor([[[expected]]]))


@pytest.mark.parametrize(
    ("changes", "low", "high"),
    [
        (dict(data=dict(name="imagenet"), model=dict(name="resnet50.a1_in1k")), -2.1179, 2.2489),
        (dict(data=dict(name="imagenet"), model=dict(name="vit_small_patch16_224")), -1.0, 1.0),
        (dict(data=dict(name="imagenet", mean=["0", "0", "0"], std=["1", "1", "1"])), 0.0, 1.0),
        (dict(data=dict(name="imagenet", augmentation="alexnet")), -123.675, 131.325),
        (dict(data=dict(name="cifar10")), -1.9892, 2.0589),
    ],
)
def test_adversarial_pixels_stay_between_the_black_and_the_white_that_the_model_sees(changes, low, high):
    """Of the model's own normalisation, where photos take that."""
    adaptive = control([], changes)
    assert float(adaptive.low.flatten()[0]) == pytest.approx(low, abs=1e-3)
    assert float(adaptive.high.flatten()[0]) == pytest.approx(high, abs=1e-3)


def test_fgsm_raises_the_loss_and_leaves_the_model_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 3

    def loss(network, batch):
        return nn.functional.cross_entropy(network(batch[0]), batch[1])

    moved = fgsm(model, loss, (images, labels), 0.02, low=torch.tensor(0.0), high=torch.tensor(1.0))
    assert (moved - images).abs().max() <= 0.02 + 1e-6 and model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    assert loss(model, (moved, labels)) > loss(model, (images, labels))


def test_adversarial_images_are_drawn_by_position_and_end_with_their_share():
    made = recipe(adversarial_share=0.5, adversarial_until="1ep")
    plan = plan_of(made)
    engine = SimpleNamespace(device=torch.device("cpu"), rank=0, world_size=1)
    task = SimpleNamespace(loss=lambda model, batch: Losses({"loss": model(batch[0]).sum()}))
    adaptive = AdaptiveBatches(plan, nn.Identity(), task, engine, SimpleNamespace())
    adaptive.adversarial_until = 600.0

    def adapted(batches: list[tuple[torch.Tensor, ...]], phase: Phase) -> list[tuple[torch.Tensor, ...]]:
        size = phase.split.micro_batch_size
        return [adaptive.adapted(batch, phase, number * size) for number, batch in enumerate(batches)]

    given = [(torch.zeros(128, 3, 2, 2), torch.zeros(128)) for _ in range(6)]
    moved = [batch[0].flatten(1).any(1) for batch in adapted(given, plan.phases[0])]
    assert 0.4 < torch.cat(moved[:4]).float().mean() < 0.6
    assert moved[4][:88].any() and not moved[4][88:].any() and not moved[5].any()
    twice = [(torch.zeros(256, 3, 2, 2), torch.zeros(256)) for _ in range(2)]
    halved = torch.cat([batch[0].flatten(1).any(1) for batch in adapted(twice, plan.phases[1])])
    assert 0.15 < halved.float().mean() < 0.35 and not (halved & ~torch.cat(moved[:4])).any()
    assert not any(batch[0].any() for batch in adapted(given, plan.phases[-1]))


@pytest.mark.parametrize(
    "changes",
    [
        dict(loss=dict(label_smoothing=0.1)),
        dict(loss=dict(mixup=0.2)),
        dict(loss=dict(multiplicative_noise=0.1)),
        dict(absa=dict(max_batch_size=1024)),
        dict(schedule=dict(batch_growth=["1ep:2"])),
        dict(data=dict(on_error="replace")),
    ],
)
def test_what_is_for_classifiers_only_is_rejected_for_detection(changes):
    detector = Recipe().vary(batch_size=16, model=dict(library="torchvision"), data=dict(name="shapes"))
    with pytest.raises(
        RecipeError,
        match=r"is for classifiers \(model.library=timm\)|no effect with (model.library=torch|data.name=sh)",
    ):
        plan_of(detector.vary(**changes))
