"""What an engine cannot do is refused before anything starts, with what to do instead."""

import importlib.util
import re

import pytest

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.plan.batching import BatchSplit, Phase
from lbtrain.plan.plan import make_plan
from lbtrain.plan.validate import check_recipe
from lbtrain.plan.validate_engine import NOT_ON_CPU, check_engine, check_runs_here
from lbtrain.plan.validate_split import check_noise_scale


def sharded(engine: str, stage: int, precision: str) -> Recipe:
    zero = {engine: dict(zero_stage=stage)} if stage else {}
    return Recipe().vary(precision=precision, **zero)


MISSING = importlib.util.find_spec("colossalai") is None


@pytest.mark.parametrize("name", ["deepspeed", "colossalai"])
@pytest.mark.parametrize("engine", ["ddp", "accelerate", "deepspeed", "colossalai"])
def test_a_zero_stage_needs_its_engine(name, engine):
    recipe = Recipe().vary(**{name: dict(zero_stage=1)})
    if engine == name:
        check_engine(recipe, engine)
        return
    with pytest.raises(
        RecipeError, match=rf"{name}.zero_stage=1 needs engine={name}, but this run uses engine={engine}"
    ):
        check_engine(recipe, engine)


def test_gemini_is_rejected_everywhere():
    with pytest.raises(
        RecipeError, match=r"Adams only, not optimizer.name=sgd\. Use engine=deepspeed deepspeed.zero_stage=3"
    ):
        check_engine(Recipe().vary(colossalai=dict(zero_stage=3)), "colossalai")


@pytest.mark.parametrize(
    ("engine", "stage", "precision", "words"),
    [
        ("colossalai", 1, "fp32", "device is required.*or engine=deepspeed deepspeed.zero_stage=1"),
        ("colossalai", 2, "bf16", "device is required.*or engine=deepspeed deepspeed.zero_stage=2"),
        ("accelerate", 0, "fp16", "trains in fp32 there.*precision=bf16, or engine=ddp"),
    ],
)
def test_what_needs_a_gpu_is_rejected_on_a_cpu(engine, stage, precision, words):
    with pytest.raises(RecipeError, match=words) as caught:
        check_runs_here(sharded(engine, stage, precision), engine, "cpu")
    assert caught.value.exit_code == 2


def test_every_need_of_a_gpu_is_tested():
    assert len(NOT_ON_CPU) == 3


@pytest.mark.skipif(not MISSING, reason="ColossalAI is in this environment")
def test_an_engine_that_is_not_installed():
    with pytest.raises(RecipeError, match="make colossalai"):
        check_runs_here(Recipe(), "colossalai", "cpu")


def test_the_others_run_anywhere():
    for engine, stage in [("ddp", 0), ("accelerate", 0), ("deepspeed", 3)]:
        check_runs_here(sharded(engine, stage, "bf16"), engine, "cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(optimizer=dict(beta1=0.8)), "optimizer.beta1=0.8 has no effect with optimizer.name=sgd"),
        (
            dict(model=dict(library="detectron2", freeze=["x"])),
            "model.freeze=x has no effect with model.library=detectron2",
        ),
        (dict(data=dict(max_size=9)), "data.max_size=9 has no effect with model.library=timm"),
        (
            dict(
                model=dict(library="torchvision"),
                data=dict(name="coco", image_size=600, short_edges=["640", "800"]),
            ),
            "data.image_size=600 has no effect with data.short_edges=640,800; it needs data.short_edges=[]",
        ),
        (dict(data=dict(name="synthetic", std=["1"])), "data.std=1 has no effect with data.name=synthetic"),
        (
            dict(model=dict(library="detectron2"), data=dict(name="coco", mean=["0.5"])),
            "data.mean=0.5 has no effect with model.library=detectron2",
        ),
        (dict(data=dict(group_by="size")), "data.group_by=size has no effect with model.library=timm"),
        (dict(loss_batch_size=2), "loss_batch_size=2 has no effect with model.library=timm"),
        (
            dict(loss_batch_size=2, model=dict(library="torchvision", detector="retinanet")),
            "loss_batch_size=2 has no effect with model.detector=retinanet",
        ),
        (
            dict(model=dict(detector="retinanet")),
            "model.detector=retinanet has no effect with model.library=timm",
        ),
        (dict(schedule=dict(decay="cosine", power=3.0)), "schedule.power=3.0 has no effect with"),
        (dict(schedule=dict(warmup="0ep", warmup_rule="linear")), "has no effect with schedule.warmup=0ep"),
        (dict(schedule=dict(warmup="0it", warmup_start_lr=0.1)), "has no effect with schedule.warmup=0it"),
        (dict(data=dict(max_pixels=5)), "data.max_pixels=5 has no effect with data.name=digits"),
        (
            dict(optimizer=dict(weight_decay=0.0, no_decay=["fc.*"])),
            "optimizer.no_decay=fc.* has no effect with optimizer.weight_decay=0.0",
        ),
        (
            dict(optimizer=dict(momentum=0.0, momentum_table=["256:0.8"])),
            "optimizer.momentum=0.0 has no effect with optimizer.momentum_table=256:0.8; it needs "
            "optimizer.momentum_table=[].",
        ),
        (dict(ema=dict(warmup=True)), "ema.warmup=true has no effect with ema.decay=0.0"),
        (dict(deepspeed=dict(config="x.json")), "deepspeed.config=x.json has no effect under engine=ddp"),
    ],
)
def test_a_key_that_does_nothing_is_named_and_rejected(changes, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        check_recipe(Recipe().vary(**changes), "ddp")


@pytest.mark.parametrize("data", [
    dict(name="coco"), dict(name="shapes"), dict(name="shapes", short_edges=["64"]),
])  # fmt: skip
def test_the_size_of_a_detectors_images_acts_without_short_edges_and_for_drawn_shapes(data):
    data = {"image_size": 96, "train_examples": 0} | data
    check_recipe(Recipe().vary(model=dict(library="torchvision"), data=data), "ddp")


def test_what_a_parent_used_returns_to_its_default_and_does_not_hide_a_mistake():
    parent = Recipe().vary(optimizer=dict(name="lars", trust_clip=3.0, momentum=0.8))
    child = parent.vary(optimizer=dict(name="lamb"))
    assert (child.optimizer.trust_clip, child.optimizer.momentum) == (3.0, 0.9)
    check_recipe(child, "ddp")
    with pytest.raises(RecipeError, match="beta1"):
        check_recipe(Recipe().vary(optimizer=dict(beta1=0.8)).vary(batch_size=64), "ddp")


@pytest.mark.parametrize("key", ["absa.max_batch_size", "schedule.batch_growth"])
def test_a_table_of_momenta_is_for_one_batch_size(key):
    table = dict(name="sgd", nesterov=True, momentum_table=["256:0.8", "512:0.9"])
    recipe = Recipe().vary(optimizer=table)
    check_recipe(recipe, "ddp")
    word = {"absa.max_batch_size": "512", "schedule.batch_growth": "10ep:2"}[key]
    with pytest.raises(RecipeError, match=f"gives the momentum of one batch size, which {key} changes"):
        check_recipe(recipe.with_overrides([f"{key}={word}"]), "ddp")


def test_an_entry_of_a_table_is_named_by_its_key():
    with pytest.raises(RecipeError, match=r"momentum_table=8192: an entry is a batch size and a number abov"):
        Recipe().with_overrides(["optimizer.momentum_table=8192"])


def test_frozen_batch_norm_is_for_detection_and_sync_for_classifiers_too():
    with pytest.raises(RecipeError, match="Use ghost or sync for a classifier"):
        make_plan(Recipe().vary(model=dict(name="cifar_resnet8", batch_norm="frozen")), 1)
    plan = make_plan(Recipe().vary(batch_size=64, model=dict(name="cifar_resnet8", batch_norm="sync")), 1)
    assert plan.bn_batch_size == 64


def test_the_noise_of_one_micro_batch_is_looked_for_in_every_phase():
    """The batch may fall with larger images, to a single ghost batch."""
    recipe = Recipe().vary(batch_size=256, bn_batch_size=64, measure=dict(noise_scale="50it"))
    phases = [Phase(start, size, BatchSplit(size, 1, 1)) for start, size in ((0, 256), (4096, 64))]
    check_noise_scale(recipe, "ddp", phases[:1], world_size=1, ghost=64)
    with pytest.raises(RecipeError, match=r"a single batch-norm batch of 64 images"):
        check_noise_scale(recipe, "ddp", phases, world_size=1, ghost=64)


NOISE = dict(measure=dict(noise_scale="50it"))


@pytest.mark.parametrize(
    ("changes", "world", "engine", "remedy"),
    [
        (NOISE | dict(batch_size=64, bn_batch_size=32), 4, "ddp", "bn_batch_size=16"),
        (NOISE | dict(batch_size=64, bn_batch_size=8, micro_batch_size=4), 2, "ddp", "micro_batch_size=8"),
        (NOISE | dict(batch_size=64, model=dict(batch_norm="sync")), 4, "ddp", "batch_norm=ghost bn_batch"),
        (NOISE | dict(batch_size=64, model=dict(batch_norm="sync")), 1, "ddp", "batch_norm=ghost bn_batch"),
        (NOISE | dict(batch_size=45, bn_batch_size=45), 1, "ddp", "bn_batch_size=15"),
        (NOISE | dict(batch_size=96, deepspeed=dict(zero_stage=3)), 1, "deepspeed", "micro_batch_size=32"),
        (dict(compile=True, batch_size=64, bn_batch_size=32), 4, "ddp", "bn_batch_size=16"),
        (dict(compile=True, batch_size=64, model=dict(batch_norm="sync")), 4, "ddp", "batch_norm=ghost bn"),
    ],
)
def test_a_remedy_is_planned(changes, world, engine, remedy):
    recipe = Recipe().vary(**changes).vary(model=dict(name="cifar_resnet8"))
    with pytest.raises(RecipeError, match=remedy) as caught:
        make_plan(recipe, world, engine=engine)
    words = re.findall(r"[a-z_.]+=\w+", str(caught.value).rpartition("Use ")[2].rpartition("Set ")[2])
    make_plan(recipe.with_overrides(words), world, engine=engine)


@pytest.mark.parametrize("name", ["lamb", "muon", "adamw", "nadamw"])
def test_an_epsilon_of_0_is_rejected_where_it_divides(name):
    with pytest.raises(RecipeError, match=rf"optimizer.eps=0 divides by zero with optimizer.name={name}"):
        check_recipe(Recipe().vary(optimizer=dict(name=name, eps=0.0)), "ddp")
