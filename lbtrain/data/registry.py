"""The data sets that recipes name: their facts, and where and in which layouts their files may lie."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lbtrain.data.arrays import Arrays, digits, read_arrays
from lbtrain.data.containers import Container, Part, num_classes
from lbtrain.data.index import DatasetIndex
from lbtrain.data.instances import InstanceSource
from lbtrain.data.layouts import open_splits
from lbtrain.data.operators import NO_OPERATORS, Operators
from lbtrain.data.photos import PhotoSource
from lbtrain.data.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelRules, levels, photo_rules
from lbtrain.data.sources import ArraySource, Source, SyntheticSource
from lbtrain.data.splits import NO_VALIDATION
from lbtrain.data.views import VIEWS, view_of
from lbtrain.errors import RecipeError, UserError, naming_what_is_closed
from lbtrain.recipe import DataConfig
from lbtrain.recipe.sections.fields import COCO_FORMAT

if TYPE_CHECKING:  # needs pycocotools, which other data sets do without
    from lbtrain.data.coco import CocoSource


@dataclass(frozen=True)
class DatasetInfo:
    """What a plan needs to know of a data set. Mean and deviation per channel, in units of 0 to 255."""

    train_examples: int
    eval_examples: int
    num_classes: int
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


PHOTOS = ("imagenet", "imagefolder")
_OWN_DATA = "a data set of your own is data.name=imagefolder"
_AS_CAFFE = (1.0, 1.0, 1.0)
"""Caffe subtracts the mean and leaves the scale of 0 to 255: AlexNet's initial weights and its local response
norm are made for that.
"""
_FACTS = {
    "digits": DatasetInfo(1440, 357, 10, 1, 8, (77.68,), (95.83,)),
    "cifar10": DatasetInfo(50_000, 10_000, 10, 3, 32, (125.31, 122.95, 113.87), (62.99, 62.09, 66.70)),
    "cifar100": DatasetInfo(50_000, 10_000, 100, 3, 32, (129.30, 124.07, 112.43), (68.17, 65.39, 70.42)),
    "mnist": DatasetInfo(60_000, 10_000, 10, 1, 28, (33.32,), (78.57,)),
    "fashion_mnist": DatasetInfo(60_000, 10_000, 10, 1, 28, (72.94,), (90.02,)),
    "imagenet": DatasetInfo(1_281_167, 50_000, 1000, 3, 224, IMAGENET_MEAN, IMAGENET_STD),
    "shapes": DatasetInfo(768, 96, 4, 3, 96, IMAGENET_MEAN, IMAGENET_STD),
    # Both without data.root: COCO 2017's, empty images left out, and MLPerf's part of OpenImages.
    "coco": DatasetInfo(117_266, 5_000, 80, 3, 800, IMAGENET_MEAN, IMAGENET_STD),
    "openimages": DatasetInfo(1_170_301, 24_781, 264, 3, 800, IMAGENET_MEAN, IMAGENET_STD),
    "synthetic": DatasetInfo(1_281_167, 512, 1000, 3, 224, IMAGENET_MEAN, IMAGENET_STD),
}


def dataset_info(config: DataConfig) -> DatasetInfo:
    """The facts of the data set that `config` names; only an imagefolder has to be there to be counted.
    Raises RecipeError.
    """
    _check_keys(config)
    if config.name == "imagefolder":
        with _root(config) as root:
            train, validation = open_splits(config, root)
        known = DatasetInfo(
            len(train), len(validation or ()), num_classes(train), 3, 224, IMAGENET_MEAN, IMAGENET_STD
        )
    elif config.name in COCO_FORMAT and (config.root or os.environ.get("LBTRAIN_DATA")):
        training, scored = _coco(config)
        known = dataclasses.replace(
            _FACTS[config.name],
            train_examples=len(training),
            eval_examples=len(scored),
            num_classes=len(training.class_names),
        )
    else:
        known = _FACTS[config.name]
    if config.validation_root == NO_VALIDATION:
        known = dataclasses.replace(known, eval_examples=0)
    if config.augmentation == "alexnet":
        known = dataclasses.replace(known, std=_AS_CAFFE)
    return dataclasses.replace(
        known,
        image_size=config.image_size or known.image_size,
        train_examples=_train_examples(config, known),
        mean=levels(config.mean, "data.mean", known.mean),
        std=levels(config.std, "data.std", known.std),
    )


def pixel_rules(config: DataConfig, known: DatasetInfo, model: str) -> PixelRules:
    """How the pixels of a data set, whose facts are `known`, become the inputs of the classifier `model`.
    Raises RecipeError.
    """
    if config.name not in PHOTOS:
        return PixelRules(known.mean, known.std)
    rules = photo_rules(config, model)
    return dataclasses.replace(rules, std=known.std) if config.augmentation == "alexnet" else rules


FOR_PHOTOS = ("classes", "crop_share", "interpolation", "validation_root", "validation_share")
_FOR_COCO = ("validation_root", "validation_share")


def _check_keys(config: DataConfig) -> None:
    """Raises RecipeError for keys that would change nothing."""
    for key in FOR_PHOTOS:
        takers = (*PHOTOS, *COCO_FORMAT) if key in _FOR_COCO else PHOTOS
        if config.name not in takers and getattr(config, key) != getattr(DataConfig(), key):
            raise RecipeError(
                f"data.{key}={getattr(config, key)}: only photos take it (data.name={' or '.join(takers)}), "
                f"and data.name is {config.name}"
            )
    if config.name == "imagenet" and config.validation_share:
        raise RecipeError(
            f"data.validation_share={config.validation_share:g}: imagenet has a validation split; {_OWN_DATA}"
        )


def _train_examples(config: DataConfig, known: DatasetInfo) -> int:
    if config.train_examples and config.name in ("imagenet", "imagefolder", *COCO_FORMAT):
        raise RecipeError(
            f"data.train_examples={config.train_examples}: the first images of a folder are all of one "
            "class. Use data.train_examples=0 for all images, or a folder that has fewer."
        )
    if config.train_examples > known.train_examples:
        raise RecipeError(
            f"data.train_examples={config.train_examples}: {config.name} has {known.train_examples:,}"
        )
    return config.train_examples or known.train_examples


def check_pictures(config: DataConfig) -> None:
    """Raises RecipeError for an augmentation or an image size that the images of the data set do not take."""
    if config.name in PHOTOS:
        if config.augmentation not in VIEWS:
            raise RecipeError(
                f"data.augmentation={config.augmentation}: {config.name} takes {', '.join(VIEWS)}"
            )
    elif config.name not in ("synthetic", "shapes", *COCO_FORMAT):
        if config.augmentation not in ("none", "crop_flip"):
            raise RecipeError(
                f"data.augmentation={config.augmentation} is for photos; {config.name} takes none or "
                "crop_flip"
            )
        own = _FACTS[config.name].image_size
        if config.image_size not in (0, own):
            raise RecipeError(
                f"data.image_size={config.image_size}: the images of {config.name} have {own} pixels a side, "
                "and keep them"
            )


def open_source(
    config: DataConfig, *, train: bool, seed: int, model: str = "", scored: bool = False
) -> Source:
    """The training or validation split of a data set, with the pixels of photos as the recipe says, or as the
    classifier `model` was made for. `scored`: the training split is evaluated, as the other one always is.
    Raises RecipeError where the files are not there, naming the layouts it knows.
    """
    check_pictures(config)
    known = dataset_info(config)
    if config.name == "synthetic":
        return SyntheticSource(
            known.train_examples if train else known.eval_examples,
            known.num_classes,
            known.channels,
            known.image_size,
        )
    if config.name in PHOTOS:
        return _photos(config, known, train, seed, model, scored=scored or not train)
    images, labels = digits(train) if config.name == "digits" else _checked_arrays(config, train)
    if train:
        images, labels = images[: known.train_examples], labels[: known.train_examples]
    augment = train and config.augmentation == "crop_flip"
    operators = _operators(config, known.mean) if train else NO_OPERATORS
    return ArraySource(
        images, labels, mean=known.mean, std=known.std, augment=augment, seed=seed, operators=operators
    )


def _operators(config: DataConfig, mean: tuple[float, ...], interpolation: str = "") -> Operators:
    return Operators(
        policy=config.auto_augment,
        jitter=config.color_jitter,
        erasing=config.random_erasing,
        erasing_mode=config.erasing_mode,
        mean=mean,
        interpolation=interpolation,
    )


def _checked_arrays(config: DataConfig, train: bool) -> Arrays:
    """Raises RecipeError unless they are as many images of as many classes as the data set has, which the
    plan counts on.
    """
    known = _FACTS[config.name]
    with _root(config) as root:
        images, labels = read_arrays(config.name, root, train=train, max_pixels=config.max_pixels)
    half, expected = ("training", known.train_examples) if train else ("evaluation", known.eval_examples)
    if not len(images) == len(labels) == expected:
        raise RecipeError(
            f"data.root={root}: {len(images):,} {half} images and {len(labels):,} labels, but {config.name} "
            f"has {expected:,}; {_OWN_DATA}"
        )
    classes = np.unique(labels)
    if not np.array_equal(classes, np.arange(known.num_classes)):
        raise RecipeError(
            f"data.root={root}: {half} images of {len(classes)} classes, labelled {classes[0]} to "
            f"{classes[-1]}, but {config.name} has {known.num_classes}, from 0 on; {_OWN_DATA}"
        )
    return images, labels


def _photos(
    config: DataConfig, known: DatasetInfo, train: bool, seed: int, model: str, *, scored: bool
) -> Source:
    with _root(config) as root:
        training, validation = open_splits(config, root)
    container: Container = training if train else validation or Part(training, np.zeros(0, np.int64))
    expected = known.train_examples if train else known.eval_examples
    if len(container) != expected or num_classes(container) > known.num_classes:
        half, found = "training" if train else "validation", num_classes(container)
        raise RecipeError(
            f"data.root={config.root}: {len(container):,} {half} images of {found} classes, but "
            f"{config.name} has {expected:,} of {known.num_classes}; {_OWN_DATA}"
        )
    rules = pixel_rules(config, known, model)
    return PhotoSource(
        container,
        view_of(config.augmentation, config.min_crop_area) if train else VIEWS["none"],
        size=known.image_size,
        num_classes=known.num_classes,
        rules=rules,
        operators=_operators(config, rules.mean, rules.interpolation) if train else NO_OPERATORS,
        seed=seed,
        on_error=config.on_error,
        scored=scored,
        max_pixels=config.max_pixels,
    )


def dataset_index(config: DataConfig) -> DatasetIndex:
    """What the data set says of itself. Opens it: raises RecipeError where it is not there."""
    if config.name in ("shapes", *COCO_FORMAT):
        train, validation = (open_instances(config, train=train).index for train in (True, False))
    else:
        train, validation = (open_source(config, train=train, seed=0).index for train in (True, False))
    return DatasetIndex(train, validation)


def index_rows(config: DataConfig) -> list[tuple[str, str]]:
    """The index for a plan, which is made without the data where they are not at hand."""
    if not (
        config.root or os.environ.get("LBTRAIN_DATA") or config.name in ("digits", "shapes", "synthetic")
    ):
        return []
    try:
        return list(dataset_index(config).rows())
    except UserError as error:
        reason = str(error).splitlines()[0].replace("Known layouts:", "docs/data.md has the known layouts.")
        return [("data", f"not read here: {reason}")]


def open_instances(config: DataConfig, *, train: bool) -> InstanceSource:
    """The training or evaluation half of a data set for detection. Raises RecipeError for one that has no
    objects to find.
    """
    if config.name == "shapes":
        from lbtrain.data.shapes import ShapesSource

        known = dataset_info(config)
        count, first = (known.train_examples, 10**6) if train else (known.eval_examples, 1)
        return ShapesSource(count, known.image_size, first=first)
    if config.name in COCO_FORMAT:
        return _coco(config)[0 if train else 1]
    raise RecipeError(
        f"data.name={config.name} has no objects to find: detection takes shapes, coco or openimages"
    )


def _coco(config: DataConfig) -> "tuple[CocoSource, CocoSource]":
    from lbtrain.data.coco_splits import open_coco

    with _root(config) as root:
        return open_coco(config, root)


@contextlib.contextmanager
def _root(config: DataConfig) -> Iterator[Path]:
    """The folder of the data set, to look into. Raises RecipeError where it is not there, and for what is
    closed to this user.
    """
    root = Path(config.root or os.environ.get("LBTRAIN_DATA", "")).expanduser()
    if str(root) == "." and not config.root:
        raise RecipeError(
            f"data.name={config.name} needs data.root=FOLDER (or the environment variable LBTRAIN_DATA)"
        )
    with naming_what_is_closed(f"data.root={root}"):
        if not root.is_dir():
            raise RecipeError(f"data.root={root}: no such folder")
        yield root
