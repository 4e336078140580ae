"""Every key of a recipe reaches what it names: set to another value, it is seen where it acts.

A new key is answered here, with two values and the room in which they differ.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lbtrain import Recipe
from lbtrain.recipe import keys
from lbtrain.run import run
from tests.photos import write_folder
from tests.tiny_detection import tiny
from tests.unit.keys.rooms import (
    SMALL,
    arithmetic,
    deepspeed,
    indexed,
    instances,
    left_behind,
    limits,
    loaders,
    network,
    numbers,
    passes,
    process_group_of_one,
    rates,
    readable,
    same,
    scored,
    started_twice,
    trained,
    watched,
    words,
)

LARS, LAMB, MUON = ("optimizer.name=lars", "optimizer.name=lamb", "optimizer.name=muon")
TIMM = "model.name=resnet10t model.args={stem_width: 8, layers: [1, 1, 1, 1], channels: [8, 8, 8, 8]}"
CROPS, BINARY = "PHOTOS data.augmentation=imagenet", "loss.form=binary_cross_entropy"
STEPS = "schedule.decay=step schedule.milestones=3ep"
RUN = "duration=4it evaluate_every=2it checkpoint.every=1it log_every=1it"
NOISE = f"{RUN} measure.noise_scale=1it"
ABSA = f"{RUN} duration=6it absa.max_batch_size=128 absa.every=2it absa.patience=2"
FP16 = "precision=fp16"
UNSPLIT = "data.name=imagefolder data.root=ROOT/all data.train_examples=0 data.validation_share=0.6"
HEADS = "{backbone: {layers: [1, 1, 1, 1], channels: [8, 8, 8, 8]}, channels: 8, box_features: 8}"
OTHER = "annotations/other.json,images"
REACHES: dict[str, tuple[Callable[[Recipe], Any], str, str]] = {
    "batch_size": (trained, "", "batch_size=64"),
    "bn_batch_size": (trained, "", "bn_batch_size=16"),
    "bn_momentum": (trained, "", "bn_momentum=0.2"),
    "bn_update": (trained, "", "bn_update=ghost_batch"),
    "micro_batch_size": (numbers, "", "micro_batch_size=8"),
    "max_micro_batch_size": (numbers, "", "max_micro_batch_size=8"),
    "duration": (rates, "", "duration=11ep"),
    "seed": (trained, "", "seed=1"),
    "model.name": (trained, "", "model.name=cifar_resnet20"),
    "model.args": (trained, "", "model.args={zero_init_last: false}"),
    "model.head_std": (trained, "", "model.head_std=0.5"),
    "model.batch_norm": (trained, "", "model.batch_norm=sync"),
    "model.drop_path": (trained, TIMM, "model.drop_path=0.5"),
    "model.freeze": (trained, "", "model.freeze=conv1.*"),
    "data.name": (scored, "", "data.name=synthetic data.train_examples=0"),
    "data.augmentation": (trained, "", "data.augmentation=crop_flip"),
    "data.image_size": (scored, "data.name=synthetic data.train_examples=0", "data.image_size=40"),
    "data.mean": (trained, "", "data.mean=0.5"),
    "data.std": (trained, "", "data.std=0.5"),
    "data.crop_share": (scored, "PHOTOS", "data.crop_share=0.6"),
    "data.interpolation": (scored, "PHOTOS data.interpolation=bilinear", "data.interpolation=bicubic"),
    "data.min_crop_area": (scored, CROPS, "data.min_crop_area=0.9"),
    "data.auto_augment": (scored, CROPS, "data.auto_augment=ta_wide"),
    "data.color_jitter": (scored, CROPS, "data.color_jitter=0.4"),
    "data.random_erasing": (trained, "", "data.random_erasing=0.9"),
    "data.erasing_mode": (trained, "data.random_erasing=0.9", "data.erasing_mode=pixel"),
    "data.repeats": (trained, "", "data.repeats=2"),
    "data.train_examples": (numbers, "", "data.train_examples=128"),
    "optimizer.name": (trained, "", LARS),
    "optimizer.momentum": (trained, "", "optimizer.momentum=0.8"),
    "optimizer.momentum_table": (trained, "", "optimizer.momentum_table=32:0.5"),
    "optimizer.nesterov": (trained, "", "optimizer.nesterov=true"),
    "optimizer.weight_decay": (trained, "", "optimizer.weight_decay=0.02"),
    "optimizer.no_decay": (trained, "", "optimizer.no_decay=norm"),
    "optimizer.no_trust_ratio": (trained, LARS, "optimizer.no_trust_ratio=norm"),
    "optimizer.trust_coefficient": (trained, LARS, "optimizer.trust_coefficient=0.002"),
    "optimizer.trust_clip": (trained, LARS, "optimizer.trust_clip=0.001"),
    "optimizer.larc_clip": (trained, f"{LARS} optimizer.trust_coefficient=9", "optimizer.larc_clip=true"),
    "optimizer.clip_value": (trained, LARS, "optimizer.clip_value=0.001"),
    "optimizer.momentum_scaling": (trained, LARS, "optimizer.momentum_scaling=none"),
    "optimizer.eps": (trained, LAMB, "optimizer.eps=0.001"),
    "optimizer.beta1": (trained, LAMB, "optimizer.beta1=0.8"),
    "optimizer.beta2": (trained, LAMB, "optimizer.beta2=0.9"),
    "optimizer.bias_correction": (trained, LAMB, "optimizer.bias_correction=false"),
    "optimizer.no_muon": (trained, MUON, "optimizer.no_muon=first"),
    "optimizer.newton_schulz_steps": (trained, MUON, "optimizer.newton_schulz_steps=3"),
    "optimizer.rate_adjustment": (trained, MUON, "optimizer.rate_adjustment=match_rms_adamw"),
    "optimizer.adamw_lr_ratio": (trained, MUON, "optimizer.adamw_lr_ratio=0.5"),
    "optimizer.layer_decay": (trained, TIMM, "optimizer.layer_decay=0.9"),
    "optimizer.head_lr_ratio": (trained, "", "optimizer.head_lr_ratio=2"),
    "optimizer.clip_norm": (trained, "", "optimizer.clip_norm=0.01"),
    "loss.label_smoothing": (trained, "", "loss.label_smoothing=0.1"),
    "loss.mixup": (trained, "", "loss.mixup=0.2"),
    "loss.cutmix": (trained, "", "loss.cutmix=1"),
    "loss.cutmix_share": (trained, "loss.mixup=0.2 loss.cutmix=1", "loss.cutmix_share=1"),
    "loss.form": (trained, "", BINARY),
    "loss.target_threshold": (trained, f"{BINARY} loss.mixup=0.2", "loss.target_threshold=0.3"),
    "loss.multiplicative_noise": (trained, "", "loss.multiplicative_noise=0.2"),
    "absa.max_batch_size": (numbers, "", "absa.max_batch_size=64"),
    "ema.decay": (trained, "ema.decay=0.5", "ema.decay=0.6"),
    "ema.base_batch_size": (trained, "ema.decay=0.5", "ema.base_batch_size=16"),
    "ema.warmup": (trained, "ema.decay=0.9", "ema.warmup=true"),
    "schedule.base_lr": (rates, "", "schedule.base_lr=0.2"),
    "schedule.base_batch_size": (rates, "", "schedule.base_batch_size=64"),
    "schedule.base_momentum": (rates, "", "schedule.base_momentum=0.5"),
    "schedule.rule": (rates, "", "schedule.rule=sqrt"),
    "schedule.table": (rates, "schedule.rule=table schedule.table=32:1", "schedule.table=32:2"),
    "schedule.regime_adaptation": (rates, "", "schedule.regime_adaptation=true"),
    "schedule.warmup": (rates, "", "schedule.warmup=2ep"),
    "schedule.warmup_start_lr": (rates, "", "schedule.warmup_start_lr=0.01"),
    "schedule.warmup_start_share": (rates, "", "schedule.warmup_start_share=0.1"),
    "schedule.warmup_rule": (rates, "schedule.warmup=1ep", "schedule.warmup_rule=linear"),
    "schedule.warmup_form": (rates, "schedule.warmup=2ep", "schedule.warmup_form=constant"),
    "schedule.decay": (rates, "", "schedule.decay=none"),
    "schedule.milestones": (rates, STEPS, "schedule.milestones=4ep"),
    "schedule.factor": (rates, STEPS, "schedule.factor=0.2"),
    "schedule.batch_growth": (rates, "", "schedule.batch_growth=5ep:2"),
    "schedule.image_sizes": (trained, "", "schedule.image_sizes=0ep:6"),
    "schedule.power": (rates, "schedule.decay=poly", "schedule.power=1"),
    "schedule.end_lr": (rates, "", "schedule.end_lr=0.001"),
    "schedule.decay_until": (rates, "", "schedule.decay_until=0.5dur"),
    "schedule.decay_from": (rates, "schedule.warmup=2ep", "schedule.decay_from=start"),
    "precision": (trained, "", "precision=bf16"),
    "channels_last": (trained, "", "channels_last=true"),
    "deepspeed.zero_stage": (deepspeed, "", "deepspeed.zero_stage=1"),
    "deepspeed.config": (deepspeed, "deepspeed.zero_stage=1", "deepspeed.config=ROOT/ds.json"),
    "evaluate_every": (numbers, "", "evaluate_every=2ep"),
    "log_every": (numbers, "", "log_every=11it"),
    "checkpoint.every": (numbers, "", "checkpoint.every=2ep"),
    "checkpoint.keep": (left_behind, RUN, "checkpoint.keep=1"),
    "checkpoint.best": (left_behind, RUN, "checkpoint.best=loss"),
    "log.trackers": (left_behind, RUN, "log.trackers="),
    "stop_at": (left_behind, RUN, "stop_at=top1_error<=100"),
    "measure.noise_scale": (left_behind, RUN, "measure.noise_scale=2it"),
    "measure.layers": (left_behind, NOISE, "measure.layers=true"),
    "measure.distance": (left_behind, RUN, "measure.distance=true"),
    "absa.every": (left_behind, ABSA, "absa.every=3it"),
    "absa.patience": (left_behind, ABSA, "absa.patience=1"),
    "absa.adversarial_share": (left_behind, ABSA, "absa.adversarial_share=0.5"),
    "absa.adversarial_step": (left_behind, ABSA, "absa.adversarial_step=0.1"),
    "absa.adversarial_until": (left_behind, ABSA, "absa.adversarial_until=0dur"),
    "skip_nonfinite": (limits, "", "skip_nonfinite=3"),
    "max_overflows": (limits, FP16, "max_overflows=7"),
    "min_loss_scale": (limits, FP16, "min_loss_scale=2"),
    "engine": (numbers, "", "engine=deepspeed"),
    "colossalai.zero_stage": (numbers, "engine=colossalai", "colossalai.zero_stage=1"),
    "model.weights": (trained, "", "model.weights=ROOT/run"),
    "data.root": (scored, "PHOTOS", "data.root=ROOT/other"),
    "data.validation_root": (scored, "PHOTOS", "data.validation_root=ROOT/other"),
    "data.validation_share": (scored, UNSPLIT, "data.validation_share=0.8"),
    "data.classes": (scored, "PHOTOS", "data.classes=ROOT/classes.json"),
    "data.max_pixels": (readable, "PHOTOS", "data.max_pixels=5200"),
    "data.on_error": (readable, "PHOTOS data.max_pixels=5200", "data.on_error=replace"),
    "data.max_size": (instances, "TINY", "data.max_size=48"),
    "data.short_edges": (instances, "TINY", "data.short_edges=48"),
    "loss_batch_size": (trained, "TINY", "loss_batch_size=4"),
    "resume": (started_twice, RUN, "resume=never"),
    "deterministic": (arithmetic, "", "deterministic=true"),
    "compile": (network, "", "compile=true"),
    "validation_batch_size": (passes, "", "validation_batch_size=100"),
    "model.library": (network, "TINY", "model.library=detectron2"),
    "model.detector": (network, f"TINY model.args={HEADS}", "model.detector=faster_rcnn"),
    "data.format": (readable, "PHOTOS", "data.format=tar"),
    "data.workers": (loaders, "", "data.workers=1"),
    "data.group_by": (instances, "TINY COCO", "data.group_by=aspect"),
    "data.square": (instances, "TINY COCO", "data.square=true"),
    "data.empty_images": (indexed, "TINY COCO", "data.empty_images=true"),
    "data.train_files": (indexed, "TINY COCO", f"data.train_files={OTHER}"),
    "data.validation_files": (indexed, "TINY COCO", f"data.validation_files={OTHER}"),
    "world_size": (started_twice, RUN, "world_size=2"),
    "fault_timeout": (watched, "", "fault_timeout=90"),
    "run_dir": (watched, "run_dir=here", "run_dir=there"),
}
"""Key: the room in which it acts, what makes it act beside SMALL (TINY: a small detector), and another
value.
"""


@pytest.fixture(scope="module", autouse=True)
def alone():
    with process_group_of_one():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("photos"))
    shutil.copytree(folder / "train", folder / "all")
    shutil.copytree(folder / "train", folder / "other/train")
    shutil.copytree(folder / "val", folder / "other/val")
    for path in (folder / "other").rglob("*.JPEG"):
        Image.new("RGB", (60, 60)).save(path)
    (folder / "classes.json").write_text('{"ant": 1, "bee": 0}')
    write_coco(folder / "coco")
    (folder / "ds.json").write_text('{"zero_optimization": {"reduce_bucket_size": 1000}}')
    recipe = SMALL.with_overrides([*words(RUN), f"run_dir={folder}/run", "seed=1"])
    run(recipe, "run", on_screen=False)
    return folder


def write_coco(root: Path) -> None:
    """Eight photos, upright and lying ones in turns, of which the last two are without objects."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 40 + n % 2 * 20, "width": 60 - n % 2 * 20}
              for n in range(1, 9)]  # fmt: skip
    for image in images:
        Image.new("RGB", (image["width"], image["height"])).save(root / "images" / image["file_name"])
    box = {"category_id": 1, "bbox": [5, 5, 10, 10], "iscrowd": 0, "area": 100,
           "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]]}  # fmt: skip
    objects = [box | {"id": image["id"], "image_id": image["id"]} for image in images[:6]]
    for name, count in (("instances_train", 6), ("instances_val", 6), ("other", 4)):
        content = {"images": images, "annotations": objects[:count], "categories": [{"id": 1, "name": "dog"}]}
        (root / f"annotations/{name}.json").write_text(json.dumps(content))


SEEN: dict[tuple[Any, str], Any] = {}


def observed(room: Callable[[Recipe], Any], line: str) -> Any:
    if (room, line) not in SEEN:
        base = tiny() if line.startswith("TINY") else SMALL
        SEEN[room, line] = room(base.with_overrides(words(line.removeprefix("TINY"))))
    return SEEN[room, line]


@pytest.mark.parametrize("key", REACHES)
def test_another_value_of_a_key_is_seen_where_it_acts(key, root):
    room, before, after = REACHES[key]
    photos = f"data.name=imagefolder data.root={root} data.train_examples=0 data.image_size=32"
    coco = f"data.name=coco data.root={root}/coco"
    base, other = (
        line.replace("PHOTOS", photos).replace("COCO", coco).replace("ROOT", str(root)).strip()
        for line in (before, f"{before} {after}")
    )
    assert key in after
    assert not same(observed(room, base), observed(room, other))


def test_the_same_recipe_gives_the_same_observation():
    """Without this, a difference would say nothing."""
    for room in (trained, scored, rates, numbers, deepspeed, limits):
        assert same(room(SMALL), room(SMALL)), room
    short = SMALL.with_overrides(words(ABSA))
    assert same(left_behind(short), left_behind(short)) and same(instances(tiny()), instances(tiny()))


def test_every_key_is_answered():
    assert set(REACHES) == {key for key, _ in keys()}, "add what is missing to REACHES above"
