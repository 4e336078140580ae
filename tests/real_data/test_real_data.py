"""The published data sets themselves, read from the folder that LBTRAIN_DATA names; skipped without it.

    LBTRAIN_DATA=DATA python -m pytest -m "slow or not slow" tests/real_data

DATA holds cifar10/, mnist/, fashion_mnist/ and coco_mini/coco_mini.tar, a few photos of COCO with their
annotations. Every layout is also tested on files that the other tests write themselves.
"""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from bench.padding import drawn_from, table
from lbtrain.data import dataset_info, open_source
from lbtrain.data.annotations import read_annotations
from lbtrain.data.coco import CocoSource
from lbtrain.data.coco_layouts import coco_files
from lbtrain.data.instances import Item, Preparation
from lbtrain.data.stream import Block
from lbtrain.main import main
from lbtrain.recipe import DataConfig
from tests.recipes.test_recipes import load, named

pytestmark = pytest.mark.skipif(
    "LBTRAIN_DATA" not in os.environ, reason="LBTRAIN_DATA names no folder of real data sets"
)
DATA = Path(os.environ.get("LBTRAIN_DATA", "."))


def test_cifar10():
    config = DataConfig(name="cifar10", root=str(DATA))
    known = dataset_info(config)
    train, evaluation = (open_source(config, train=train, seed=0) for train in (True, False))
    assert train.images.shape == (50_000, 32, 32, 3) and evaluation.images.shape == (10_000, 32, 32, 3)
    assert torch.bincount(evaluation.labels).tolist() == [1000] * 10
    assert evaluation.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    np.testing.assert_allclose(train.images.numpy().mean((0, 1, 2)), known.mean, atol=0.01)
    np.testing.assert_allclose(train.images.numpy().std((0, 1, 2)), known.std, atol=0.01)


def test_the_patches_that_airbench94_whitens():
    from lbtrain.nn.airbench import PATCHES

    source = open_source(DataConfig(name="cifar10", root=str(DATA)), train=True, seed=0)
    products = torch.zeros(12, 12, dtype=torch.float64)
    for first in range(0, 50_000, 2_500):
        some = np.arange(first, first + 2_500)
        images, _ = source.fetch(Block.of(some))
        patches = torch.nn.functional.unfold(images, 2).transpose(1, 2).reshape(-1, 12).double()
        products += patches.T @ patches
    found = products / (50_000 * 31**2) * 1e6
    torch.testing.assert_close(found, torch.tensor(PATCHES, dtype=torch.float64), rtol=0, atol=1)


@pytest.mark.parametrize(
    ("name", "first_labels"), [("mnist", [5, 0, 4, 1, 9]), ("fashion_mnist", [9, 0, 0, 3, 0])]
)
def test_idx_files(name, first_labels):
    config = DataConfig(name=name, root=str(DATA))
    known = dataset_info(config)
    train, evaluation = (open_source(config, train=train, seed=0) for train in (True, False))
    assert (len(train), len(evaluation)) == (known.train_examples, known.eval_examples) == (60_000, 10_000)
    assert train.images.shape == (60_000, 28, 28, 1)
    pixels = train.images.double()
    assert abs(pixels.mean() - known.mean[0]) < 0.01 and abs(pixels.std() - known.std[0]) < 0.01
    assert set(evaluation.labels.tolist()) == set(range(10))
    assert train.labels[:5].tolist() == first_labels


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fashion_mnist_2k_lamb", ["batch_size=256"]),
        ("small_alexnet", ["data.augmentation=crop_flip"]),
        (
            "wide_resnet_growth",  # two steps of 32 images and two of 64 are as long as six of 32
            [
                "model.name=cifar_resnet8",
                "batch_size=32",
                "bn_batch_size=8",
                "schedule.batch_growth=[2it:2]",
                "duration=6it",
            ],
        ),
    ],
)
def test_real_images_of_the_recipes_own_data_set(name, words, tmp_path, monkeypatch):
    recipe = load(named(name))["recipe"]
    root = f"data.root={DATA / recipe.data.name}"
    short = ["duration=4it", "log_every=1it", "evaluate_every=1dur", "checkpoint.every=1dur", "engine=ddp"]
    try:
        main(recipe, [*short, *words, root, f"run_dir={tmp_path / 'run'}"])
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows][:5] == ["train"] * 4 + ["eval"]
    assert all(0 < row["loss"] < 20 for row in rows if row["kind"] == "train")
    assert 50 < rows[4]["top1_error"] < 95, "near chance after four steps, over all 10,000 images"


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    with tarfile.open(DATA / "coco_mini/coco_mini.tar") as archive:
        archive.extractall(root, filter="data")
    return root


def test_photos_of_coco(coco):
    train = CocoSource(read_annotations(coco_files(coco, "train")), empty_images=True)
    evaluation = CocoSource(read_annotations(coco_files(coco, "validation")), empty_images=True)
    assert (len(train), len(evaluation), len(train.class_names)) == (70, 74, 80)
    assert len(CocoSource(read_annotations(coco_files(coco, "validation")), empty_images=False)) == 72
    sample = train[0]
    assert len(sample.labels) and sample.masks.any((1, 2)).all()
    batch = Preparation((160,), 256, flip=True, seed=0).batch(
        train, Item(Block(np.zeros(3), np.arange(3)), (256, 256))
    )
    assert all(min(image.shape[1:]) <= 160 and max(image.shape[1:]) <= 256 for image in batch.images)


def test_the_docs_state_the_padding_as_counted(coco):
    sizes = drawn_from(sorted(coco.rglob("*.json")))
    assert table(sizes) in (Path(__file__).parents[2] / "docs/detection.md").read_text()
