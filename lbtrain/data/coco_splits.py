"""The training and the validation split of a data set in COCO's format."""

import functools
from collections import Counter
from pathlib import Path

import numpy as np

from lbtrain.data.annotations import Annotations, Content, read_annotations
from lbtrain.data.coco import CocoSource
from lbtrain.data.coco_layouts import CocoFiles, coco_files, has_coco
from lbtrain.data.splits import NO_VALIDATION, check_share, held_out
from lbtrain.errors import RecipeError
from lbtrain.recipe import DataConfig


def open_coco(config: DataConfig, root: Path) -> tuple[CocoSource, CocoSource]:
    """Both splits; without images to score where data.validation_root=none. Raises RecipeError."""
    share, elsewhere = config.validation_share, config.validation_root
    named = config.validation_files
    check_share(root, share, elsewhere, named or has_coco(root, "validation"))
    if named and elsewhere == NO_VALIDATION:
        raise RecipeError(
            f"data.validation_root={elsewhere}, but data.validation_files={','.join(named)}: use one of "
            "the two"
        )
    train = coco_files(root, "train", config.train_files, whole=bool(share or elsewhere or named))
    validation = None
    if not share and elsewhere != NO_VALIDATION:
        place = Path(elsewhere).expanduser() if elsewhere else root
        if not place.is_dir():
            raise RecipeError(f"data.validation_root={elsewhere}: no such folder")
        validation = coco_files(place, "validation", named)
    return _opened(train, validation, share, config.empty_images, config.max_pixels)


@functools.lru_cache(maxsize=1)
def _opened(
    train_files: CocoFiles, own: CocoFiles | None, share: float, empty_images: bool, max_pixels: int
) -> tuple[CocoSource, CocoSource]:
    """Read once: a plan counts the images before the run opens them."""
    train, validation = read_annotations(train_files), None
    if share:
        train, validation = _hold_out(train, share)
    source = CocoSource(train, empty_images=empty_images, max_pixels=max_pixels)
    if own:
        validation = read_annotations(own)
    if not validation:
        return source, source.without_images()
    scored = CocoSource(validation, empty_images=True, scored=True, max_pixels=max_pixels)
    _check_same_categories(source, scored)
    return source, scored


def _hold_out(whole: Annotations, share: float) -> tuple[Annotations, Annotations]:
    """(training, validation): of each class, `share` of the photos on which it is the rarest, and of those
    without objects. A photo that has two ids stays one. See `held_out`.
    """
    rarest = _rarest_categories(whole.content)
    names = np.array([name.encode(errors="surrogateescape") for name in rarest], np.bytes_)
    chosen, note = held_out(names, np.array(list(rarest.values()), np.int64), share)
    of_validation = {name for name, held in zip(rarest, chosen.tolist(), strict=True) if held}
    return _part(whole, set(rarest) - of_validation), _part(whole, of_validation)._replace(notes=note)


def _rarest_categories(content: Content) -> dict[str, int]:
    """Photo -> number of the category with the fewest objects among its own, and 0 without objects."""
    names = {image["id"]: image["file_name"] for image in content["images"]}
    objects = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
    counts = Counter(annotation["category_id"] for annotation in objects)
    by_count = sorted(counts, key=lambda category: (-counts[category], category))
    number_of = {category: number for number, category in enumerate(by_count, 1)}
    rarest = dict.fromkeys(names.values(), 0)
    for annotation in objects:
        name = names[annotation["image_id"]]
        rarest[name] = max(rarest[name], number_of[annotation["category_id"]])
    return rarest


def _part(whole: Annotations, names: set[str]) -> Annotations:
    """Some photos with what is annotated on them."""
    images = [image for image in whole.content["images"] if image["file_name"] in names]
    ids = {image["id"] for image in images}
    annotations = [each for each in whole.content["annotations"] if each["image_id"] in ids]
    return whole._replace(content=whole.content | {"images": images, "annotations": annotations})


def _check_same_categories(train: CocoSource, validation: CocoSource) -> None:
    """Raises RecipeError unless a label of the one is the same class in the other: each file's categories are
    numbered by themselves.
    """
    differing = sorted(train.categories.items() ^ validation.categories.items())
    if differing:
        named = ", ".join(f"{category} ({name})" for category, name in differing[:4])
        raise RecipeError(
            f"{train.path} and {validation.path} do not list the same categories by id and name: {named} "
            "stands in one of them alone. "
            "Labels are numbered by these lists: write the same one into both files"
        )
