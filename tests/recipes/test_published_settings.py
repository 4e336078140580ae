"""What a paper prints about its settings is what its recipes say: every such row of the reference tables,
number by number.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lbtrain.data import dataset_info
from lbtrain.data.views import side_before_crop
from lbtrain.nn.airbench import SHIFT_SCALE
from lbtrain.optim import parameter_roles
from lbtrain.optim.muon import RATE_ADJUSTMENTS
from lbtrain.plan.plan import Plan, make_plan
from lbtrain.plan.scaling import peak_lr
from lbtrain.recipe import Recipe
from lbtrain.tasks import build_model
from tests.counted import counted_once
from tests.recipes.tables import FIGURES, seen
from tests.recipes.test_recipes import FILES, FOLDER, MODERN, load, named

NUMBERS: dict[str, Callable[[Recipe], object]] = {
    "momentum": lambda recipe: recipe.optimizer.momentum,
    "weight_decay": lambda recipe: recipe.optimizer.weight_decay,
    "weight_decay_on_bn_gamma_beta": lambda recipe: (
        0.0 if "norm" in recipe.optimizer.no_decay else recipe.optimizer.weight_decay
    ),
    "gradient_clip_norm": lambda recipe: recipe.optimizer.clip_norm,
    "trust_coefficient": lambda recipe: recipe.optimizer.trust_coefficient,
    "epochs": lambda recipe: float(recipe.duration.value),
    "warmup_epochs": lambda recipe: float(recipe.schedule.warmup.value),
    "poly_decay_power": lambda recipe: recipe.schedule.power if recipe.schedule.decay == "poly" else None,
    "lr_decay_epoch": lambda recipe: milestones(recipe, "ep"),
    "lr_decay_at_fraction": lambda recipe: milestones(recipe, "dur"),
    "lr_decay_factor": lambda recipe: recipe.schedule.factor,
    "decay_factor": lambda recipe: 1 / recipe.schedule.factor,
    "per_worker_batch": lambda recipe: recipe.bn_batch_size,
    "fc_init_gaussian_std": lambda recipe: recipe.model.head_std,
    "reference_lr_per_256_images": lambda recipe: (
        recipe.schedule.base_lr * 256 / recipe.schedule.base_batch_size
    ),
    "base_lr": lambda recipe: recipe.schedule.base_lr,
    "learning_rate": peak_lr,
    "learning_rate_peak": peak_lr,
    "min_lr": lambda recipe: recipe.schedule.end_lr,
    "end_factor": lambda recipe: recipe.schedule.end_lr / peak_lr(recipe),
    "warmup_steps": lambda recipe: math.ceil(plan(recipe).warmup_steps),
    "warmup_lr": lambda recipe: recipe.schedule.warmup_start_lr,
    "warmup_start_factor": lambda recipe: recipe.schedule.warmup_start_share,
    "lr_start_factor": lambda recipe: recipe.schedule.warmup_start_share,
    "lr_peak_epoch": lambda recipe: float(recipe.schedule.warmup.value),
    "clip_grad_norm": lambda recipe: recipe.optimizer.clip_norm,
    "adam_eps": lambda recipe: recipe.optimizer.eps,
    "adam_beta1": lambda recipe: recipe.optimizer.beta1,
    "adam_beta2": lambda recipe: recipe.optimizer.beta2,
    "wd_equivalent_torch_adamw": lambda recipe: recipe.optimizer.weight_decay,
    "mixup_alpha": lambda recipe: recipe.loss.mixup,
    "cutmix_alpha": lambda recipe: recipe.loss.cutmix,
    "mixup_switch_prob": lambda recipe: recipe.loss.cutmix_share,
    "random_erasing": lambda recipe: recipe.data.random_erasing,
    "repeated_augmentation": lambda recipe: recipe.data.repeats if recipe.data.repeats > 1 else 0,
    "randaugment_magnitude": lambda recipe: int(re.search(r"-m(\d+)", recipe.data.auto_augment)[1]),
    "crop_area_min": lambda recipe: recipe.data.min_crop_area,
    "train_crop": lambda recipe: recipe.schedule.image_sizes[0].pixels,
    "test_crop": lambda recipe: dataset_info(recipe.data).image_size,
    "test_resize": lambda recipe: side_before_crop(
        dataset_info(recipe.data).image_size, recipe.data.crop_share
    ),
    "min_res": lambda recipe: recipe.schedule.image_sizes[0].pixels,
    "max_res": lambda recipe: recipe.schedule.image_sizes[-1].pixels,
    "val_resolution": lambda recipe: recipe.data.image_size,
    "drop_path": lambda recipe: recipe.model.drop_path,
    "ema_decay": lambda recipe: recipe.ema.decay,
    "base_lr_log2": lambda recipe: math.log2(recipe.schedule.base_lr / recipe.schedule.base_batch_size),
    "warmup_fraction_of_training": lambda recipe: float(recipe.schedule.warmup.value),
    "warmup_start_divisor": lambda recipe: 1 / (recipe.schedule.warmup_start_share or math.nan),
    "label_smoothing": lambda recipe: recipe.loss.label_smoothing,
    "iterations": lambda recipe: plan(recipe).total_steps,
    "warmup_iterations": lambda recipe: math.ceil(plan(recipe).warmup_steps),
    "initial_batch": lambda recipe: recipe.batch_size,
    "final_batch": lambda recipe: plan(recipe).phases[-1].batch_size,
    "max_batch": lambda recipe: max(phase.batch_size for phase in plan(recipe).phases),
    "max_batch_ratio": lambda recipe: (
        max(phase.batch_size for phase in plan(recipe).phases) / recipe.batch_size
    ),
}
GOYAL = ("goyal2017", dict(model="ResNet-50"), 10)
LARS = dict(optimizer="LARS", location="sec 5")
YOU = dict(model="ResNet-50", optimizer="LARS", location=("sec 5", "Table 4"))
HOFFERS_CODE = ("authors code, main_gbn / main_normal", "authors code, model ResNet-44 regime")
MASTERS = ("masters2018", dict(model=("", "ResNet-8/20/32"), dataset=("", "CIFAR-10")), 4)
PUBLISHED: dict[str, tuple[str, dict[str, str | tuple[str, ...]], int]] = {
    "resnet50": GOYAL,
    "resnet50_8k": GOYAL,
    "resnet101_8k": GOYAL,
    "alexnet": ("you2017lars", dict(model="AlexNet", optimizer="SGD momentum"), 4),
    "alexnet_4k": ("you2017lars", dict(model="AlexNet", optimizer="SGD momentum"), 4),
    "alexnet_bn": ("you2017lars", dict(model="AlexNet-BN", optimizer="SGD momentum"), 3),
    "alexnet_lars": ("you2017lars", dict(model="AlexNet", **LARS), 6),
    "alexnet_lars_8k": ("you2017lars", dict(model="AlexNet", **LARS), 6),
    "alexnet_bn_lars": ("you2017lars", dict(model="AlexNet-BN", **LARS), 6),
    "alexnet_bn_lars_8k": ("you2017lars", dict(model="AlexNet-BN", **LARS), 6),
    **{f"resnet50_you{batch}": ("you2017lars", {**YOU, "batch_size": ("", size)}, least)
       for batch, size, least in (("", "256", 4), ("_1k", "1024", 5), ("_8k", "8192", 5),
                                  ("_16k", "16384", 5), ("_32k", "32768", 5))},
    "resnet44": ("hoffer2017", dict(model=("", "ResNet-44"), location=HOFFERS_CODE), 5),
    "resnet44_4k_regime": ("hoffer2017", dict(model=("", "ResNet-44"), location=HOFFERS_CODE), 5),
    "resnet50_batch_growth": ("smith2018", dict(model="ResNet-50", location="quoted by a later paper"), 2),
    "resnet50_lamb_32k": ("you2019lamb", dict(location="authors code, run script"), 5),
    "absa": ("yao2018", dict(model="ResNet", location="authors code, README example"), 2),
    "wide_resnet": ("smith2018", dict(model="Wide ResNet 16-4", batch_size="128"), 1),
    "wide_resnet_growth": ("smith2018", dict(model="Wide ResNet 16-4", batch_size=("", "128")), 3),
    "wide_resnet_growth_640": ("smith2018", dict(model="Wide ResNet 16-4", batch_size="640"), 1),
    "wide_resnet_growth_3200": ("smith2018", dict(model="Wide ResNet 16-4", batch_size="3200"), 1),
    "resnet50_rsb_a1": ("modern", dict(recipe="rsb_a1_mmpretrain"), 13),
    "resnet50_rsb_a2": ("modern", dict(recipe="rsb_a2_mmpretrain"), 13),
    "resnet50_rsb_a3": ("modern", dict(recipe="rsb_a3_mmpretrain"), 13),
    "resnet50_torchvision": ("modern", dict(recipe="tv_resnet50_v2"), 13),
    "resnet50_ffcv_16": ("modern", dict(recipe="ffcv_rn50_16"), 10),
    "resnet50_ffcv_40": ("modern", dict(recipe="ffcv_rn50_40"), 10),
    "resnet50_ffcv_88": ("modern", dict(recipe="ffcv_rn50_88"), 10),
    "resnet50_algoperf": ("modern", dict(recipe="algoperf_imagenet_resnet_target"), 6),
    "vit_s16_90": ("modern", dict(recipe="bv_vit_s16_i1k"), 6),
    "vit_s16_algoperf": ("modern", dict(recipe="algoperf_imagenet_vit_target"), 5),
    "deit_s": ("modern", dict(recipe="deit_s"), 10),
    "swin_t": ("modern", dict(recipe="swin_t"), 8),
    "convnext_t": ("modern", dict(recipe="convnext_t"), 9),
    "airbench94": (
        "modern",
        dict(recipe="airbench94", metric=("momentum", "label_smoothing", "epochs")),
        3,
    ),
    "airbench94_muon": ("modern", dict(recipe="airbench94_muon", metric=("label_smoothing", "epochs")), 2),
    "small_resnet8": MASTERS,
    "small_resnet32": MASTERS,
    "small_resnet32_warmup": ("masters2018", dict(model="ResNet-32", location="sec 3.4"), 2),
    "small_alexnet": ("masters2018", dict(model=("", "reduced AlexNet"), dataset=("", "CIFAR-10")), 4),
}  # fmt: skip
"""Recipe: the table, the values that its rows have, and how many distinct settings they print at least."""


def plan(recipe: Recipe) -> Plan:
    return make_plan(recipe.vary(max_micro_batch_size=0), 1, engine="ddp", statistics=counted_once(recipe))


def milestones(recipe: Recipe, unit: str) -> list[float]:
    points = [milestone.at for milestone in recipe.schedule.milestones]
    return [float(point.value) for point in points if point.unit == unit]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_printed_setting_is_the_recipes(name):
    table, where, least = PUBLISHED[name]
    recipe = load(named(name))["recipe"]
    printed: dict[str, list[float]] = {}
    for row in seen(table):
        if row["metric"] in NUMBERS and all(
            row[key] in (value if isinstance(value, tuple) else (value,)) for key, value in where.items()
        ):
            printed.setdefault(row["metric"], []).append(float(row["value"]))
    assert len(printed) >= least, printed
    for metric, values in printed.items():
        ours = NUMBERS[metric](recipe)
        assert ours == pytest.approx(values if isinstance(ours, list) else values[0]), metric


@pytest.mark.parametrize("epochs", [16, 40, 88])
def test_the_resolution_of_ffcvs_configurations_epoch_by_epoch(epochs):
    """ImageNetTrainer.get_resolution: between the ends of its ramp, the nearest multiple of 32."""
    rows = {row["metric"]: row["value"] for row in seen("modern") if row["recipe"] == f"ffcv_rn50_{epochs}"}
    ramp = [int(rows[f"res_ramp_{end}_epoch"]) for end in ("start", "end")]
    ends = [int(rows[name]) for name in ("min_res", "max_res")]
    theirs = [int(np.round(np.interp(epoch, ramp, ends) / 32)) * 32 for epoch in range(epochs)]
    recipe = load(named(f"resnet50_ffcv_{epochs}"))["recipe"]
    found = plan(recipe)
    step = recipe.batch_size  # an epoch ends inside a step
    ours = [
        found.phase(epoch * found.train_examples + (epoch > 0) * step).image_size for epoch in range(epochs)
    ]
    assert ours == theirs and recipe.data.crop_share == 0.875


def test_every_row_of_goyals_table_3b_is_a_recipe():
    """Batch, rate, length and result; the table has its numbers of GPUs and iterations in words."""
    rows = [row for row in seen("goyal2017") if row["location"] == "Table 3b" and row["metric"] == "mask_AP"]
    recipes = [load(path)["recipe"] for path in sorted(FOLDER.glob("coco/mask_rcnn_goyal*.py"))]
    assert len(rows) == len(recipes) == 4
    for row in rows:
        (recipe,) = [recipe for recipe in recipes if str(recipe.batch_size) == row["batch_size"]]
        gpus, iterations = map(int, re.findall(r"\d+", row["note"])[:2])
        assert (peak_lr(recipe), recipe.expect.value) == pytest.approx(
            (float(row["base_lr"]), float(row["value"]))
        )
        assert (
            str(recipe.duration) == f"{iterations}it" and recipe.loss_batch_size == recipe.batch_size / gpus
        )


@pytest.mark.parametrize("name", ["resnet50_lars_8k", "resnet50_lars_16k", "resnet50_lars_32k"])
def test_the_settings_of_the_lars_reproduction(name):
    """They stand in the notes of its rows."""
    recipe = load(named(name))["recipe"]
    (row,) = [
        row
        for row in seen("you2017lars")
        if row["location"] == "README table" and row["batch_size"] == str(recipe.batch_size)
    ]
    said = re.search(
        r"(\d+) epochs, wd (\S+), warm-up (\S+) epochs, LARS epsilon (\S+), .* per-GPU batch (\d+)",
        row["note"],
    )
    found = plan(recipe)
    warmup = found.warmup_steps * recipe.batch_size / found.train_examples
    ours = [
        found.total_examples / found.train_examples,
        recipe.optimizer.weight_decay,
        warmup,
        recipe.optimizer.eps,
        recipe.bn_batch_size,
    ]
    assert ours == pytest.approx([float(number) for number in said.groups()], rel=1e-6)
    assert (
        found.learning_rate.peak == pytest.approx(float(row["base_lr"]), rel=1e-5)
        and recipe.schedule.decay == "poly"
    )


@pytest.mark.parametrize(
    ("name", "batch_size", "of"),
    [
        ("wide_resnet", "128", "original schedule"),
        ("wide_resnet_growth", "128", "increasing batch size"),
        ("wide_resnet_growth_3200", "3200", "increased momentum"),
    ],
)
def test_the_steps_of_smiths_arms(name, batch_size, of):
    rows = [
        row
        for row in seen("smith2018")
        if row["metric"] == "parameter_updates" and row["model"] == "Wide ResNet 16-4"
    ]
    (row,) = [row for row in rows if row["batch_size"] == batch_size and of in row["note"]]
    steps, published = plan(load(named(name))["recipe"]).total_steps, float(row["value"])
    assert 0.9 * published < steps < (published if row["note"].startswith("under") else 1.03 * published)


@pytest.mark.parametrize("name", ["resnet50_rsb_a1", "resnet50_rsb_a2", "resnet50_rsb_a3"])
def test_the_code_of_mmpretrain(name):
    """lamb.py clips gradients at a norm of 1 and has an epsilon of 1e-6, both for a loss that is a sum over
    the 1,000 classes (cls_head.py divides it by the images); resnet.py starts the last scale of a block at 0
    and linear_head.py the classifier with a deviation of 0.01.
    """
    recipe = load(named(name))["recipe"]
    form, classes = recipe.optimizer, 1000
    assert (form.clip_norm * classes, form.eps * classes) == pytest.approx((1.0, 1e-6))
    assert recipe.model.args == {} and recipe.model.head_std == 0.01


def test_the_network_of_big_vision():
    """models/vit.py: the last norm comes before the mean over the patches, and the classifier starts at 0."""
    recipe = load(named("vit_s16_90"))["recipe"]
    model = build_model(recipe, dataset_info(recipe.data))
    assert isinstance(model.norm, nn.LayerNorm) and isinstance(model.fc_norm, nn.Identity)
    assert not model.head.weight.any() and model.pos_embed.shape[1] == 196


def test_the_decoupled_settings_of_airbench94():
    """legacy/airbench94.py: a rate per 1,024 images over 1 + 1 / (1 - momentum), for the sum of the losses; a
    decay that stands beside the rate; a triangle from 0.2 over 1 to 0.07.
    """
    recipe = load(named("airbench94"))["recipe"]
    rows = {row["metric"]: row["value"] for row in seen("modern") if row["recipe"] == "airbench94"}
    scale = 1 + 1 / (1 - recipe.optimizer.momentum)
    assert peak_lr(recipe) == pytest.approx(float(rows["learning_rate"]) / scale)
    decay = float(rows["weight_decay"]) / scale  # of a step, beside the rate
    assert recipe.optimizer.weight_decay * peak_lr(recipe) == pytest.approx(decay)
    assert float(rows["bias_scaler"]) == SHIFT_SCALE**2 and recipe.optimizer.no_decay == []
    rate = plan(recipe).learning_rate
    ends = rate.warmup_start / rate.peak, rate.warmup_length, rate.end / rate.peak
    assert ends == pytest.approx((0.2, 0.23, 0.07))
    assert re.findall(r"\d[\d.]*", rows["schedule"]) == ["23", "0.2", "0.07"]


def test_the_muon_of_airbench94():
    """airbench94_muon.py: its rate without an adjustment, which is 1 for convolutions as wide as these; all
    of them Muon's, the classifier not; a line from the first step to 0.
    """
    recipe = load(named("airbench94_muon"))["recipe"]
    rows = {row["metric"]: row["value"] for row in seen("modern") if row["recipe"] == "airbench94_muon"}
    form = recipe.optimizer
    assert (peak_lr(recipe), form.momentum) == (float(rows["muon_lr"]), float(rows["muon_momentum"]))
    assert (form.newton_schulz_steps, form.nesterov) == (int(rows["ns_steps"]), True)
    assert (recipe.batch_size, recipe.bn_momentum) == (
        int(rows["batch_size"]),
        float(rows["bn_momentum_torch"]),
    )
    rate = plan(recipe).learning_rate
    assert (rate.warmup_length, rate.end, recipe.schedule.power) == (0, 0, 1)
    model = build_model(recipe, dataset_info(recipe.data))
    stepped = {role.name for role in parameter_roles(model, no_muon=form.no_muon) if role.use_muon}
    convolutions = {
        f"{name}.weight": each for name, each in model.named_modules() if isinstance(each, nn.Conv2d)
    }
    assert stepped == set(convolutions) and len(stepped) == 6
    for each in convolutions.values():
        assert RATE_ADJUSTMENTS[form.rate_adjustment](*each.weight.flatten(1).shape) == 1


def test_label_smoothing_mixup_and_averages_are_off_in_the_recipes_of_papers():
    own = {"wide_resnet_1k"}  # a setting of ours, with label smoothing
    lars = {f"resnet50_lars_{batch}" for batch in ("8k", "16k", "32k")}
    assert {*own, *lars} < {path.stem for path in FILES}
    for path in FILES:
        if path.stem.startswith(MODERN):
            continue
        recipe = load(path)["recipe"]
        assert not (recipe.loss.mixup or recipe.ema.decay or recipe.loss.multiplicative_noise), path
        # LAMB's run script has label smoothing; test_every_printed_setting_is_the_recipes holds the number.
        assert not recipe.loss.label_smoothing or path.stem in {*own, *lars, "resnet50_lamb_32k"}, path


@pytest.mark.parametrize("name", ["resnet50_lars_8k", "resnet50_lars_16k", "resnet50_lars_32k"])
def test_the_code_of_the_lars_reproduction(name):
    """lars.py, utils.py and pytorch_imagenet_resnet.py: its step, its label smoothing (utils.LabelSmoothLoss:
    0.9 for the label, 0.1 / 999 for every other class) and its network.
    """
    recipe = load(named(name))["recipe"]
    form = recipe.optimizer
    assert (form.name, form.momentum_scaling, form.nesterov) == ("lars", "none", False)
    bounds = form.momentum, form.trust_coefficient, form.trust_clip, form.clip_value
    assert bounds == (0.9, 0.001, 50, 10)
    assert form.no_decay == form.no_trust_ratio == ["norm", "bias"]
    smoothed = nn.CrossEntropyLoss(label_smoothing=recipe.loss.label_smoothing)
    scores = torch.randn(4, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.full_like(scores, 0.1 / 999)
    weights[torch.arange(4), torch.arange(4)] = 0.9
    by_hand = -(weights * scores.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(smoothed(scores, torch.arange(4)), by_hand, rtol=1e-12, atol=0)
    assert recipe.model.args == {"zero_init_last": False} and recipe.model.head_std == 0
    assert (recipe.schedule.power, recipe.schedule.warmup_start_lr) == (2.0, 0.0)


def test_the_code_of_absa():
    """train.py, utils.py (cifar10) and models/resnet.py of github.com/amirgholami/HessianFlow."""
    recipe = load(named("absa"))["recipe"]
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.9, 0.0)
    known = dataset_info(recipe.data)
    assert (known.mean, known.std, recipe.data.augmentation) == ((0, 0, 0), (255, 255, 255), "none")
    assert recipe.absa.adversarial_step == 0.005 and recipe.bn_batch_size == 128
    model = build_model(recipe, known)
    assert sum(p.numel() for p in model.parameters()) == 272_474
    assert all(float(block.bn2.weight.detach().min()) == 1 for stage in model.stages for block in stage)


def test_the_code_of_the_authors_lamb_run():
    """optimization.py of github.com/fastalgo/imagenet_resnet50_lamb, and 128 images on each of 256 cores."""
    recipe = load(named("resnet50_lamb_32k"))["recipe"]
    form = recipe.optimizer
    assert (form.name, form.bias_correction, form.clip_norm, form.trust_clip) == ("lamb", False, 1.0, 0.0)
    assert (form.beta1, form.beta2, form.eps) == (0.9, 0.999, 1e-6)
    assert form.no_decay == form.no_trust_ratio == ["norm"]
    assert recipe.bn_batch_size == recipe.batch_size // 256 == 128
    rate = plan(recipe).learning_rate
    middle = (rate.warmup_length + 1) / 2
    assert (rate(0), rate(middle), rate(1)) == pytest.approx((0, rate.peak / 2, 0))


@pytest.mark.parametrize(
    "name", [path.stem for path in FILES if path.stem.startswith(("alexnet", "resnet50_you"))]
)
def test_the_code_of_the_lars_paper(name):
    """Models and solvers of github.com/borisgin/nvcaffe: Caffe's poly policy counts from iteration 0, under
    the ramp-up too; without bounds of the ratio; everything decays; AlexNet-BN takes pixels of 0 to 1.
    """
    recipe = load(named(name))["recipe"]
    rate = plan(recipe).learning_rate
    assert rate(0.5) == pytest.approx(rate.peak / 4) and rate.power == 2
    assert rate(0) == (0 if recipe.schedule.warmup else rate.peak)
    form = recipe.optimizer
    assert (form.momentum, form.weight_decay, form.eps, form.trust_clip) == (
        0.9, 5e-4, 0.0 if form.name == "lars" else 1e-6, 0.0,
    )  # fmt: skip
    assert form.no_trust_ratio == ([] if form.name == "lars" else ["norm", "bias"])
    assert form.no_decay == []
    if "resnet50" in name:
        assert recipe.data.augmentation == "alexnet" and recipe.data.std == ["1", "1", "1"]
    elif "_bn" in name:
        assert recipe.bn_batch_size == recipe.batch_size // 8, "eight GPUs"
        assert recipe.data.std == ["1", "1", "1"]


EXPECTING = [path for path in FILES if load(path)["recipe"].expect]


def test_how_many_recipes_have_a_target():
    assert len(EXPECTING) >= 24


@pytest.mark.parametrize("path", EXPECTING, ids=lambda path: path.stem)
def test_the_rate_of_a_published_result_is_the_recipes(path: Path):
    """Of the row that prints the expected result at this batch, where it prints the rate too."""
    recipe = load(path)["recipe"]
    error, batch = recipe.expect.value, str(recipe.batch_size)
    if recipe.expect.target:
        return  # tests/recipes/test_mlperf.py holds the rate
    kinds = {
        "top1_error": error,
        "top1_accuracy": 100 - error,
        "test_accuracy": 100 - error,
        "mask_AP": error,
    }
    rows = [row for name in FIGURES for row in seen(name)]
    near = [
        row
        for row in rows
        if row["batch_size"] == batch
        and row["metric"] in kinds
        and abs(float(row["value"]) - kinds[row["metric"]]) < 0.006
    ]
    rates = {float(row["base_lr"]) for row in near if row["base_lr"]}
    assert not rates or any(peak_lr(recipe) == pytest.approx(rate, rel=0.02) for rate in rates), (
        peak_lr(recipe),
        near,
    )
