"""detectron2's models, data mapper and augmentations as they are, under our loop: `model.library=detectron2
model.name=CONFIG`.

A config is one of its model zoo (COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml) or a LazyConfig (the
same with .py). It gives the network, the mapper and the augmentations; batch, optimizer and schedule are the
recipe's. Three things are set from outside, as in lbtrain.tasks.loss_units: proposals are sampled by the seed
of their image, the heads' losses are normalised over `loss_batch_size` images, and the mapper's random
numbers belong to (seed, epoch, image). Padding is detectron2's own, to the largest image of the micro-batch:
runs are equal on any world size that has the same `micro_batch_size`.

detectron2 is on no package index: its own installation page, docs/tutorials/install, says how to build it.
docs/detection.md has what this needs beside it.
"""

import contextlib
import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor, nn
from torch.utils.data import Dataset

from lbtrain.data import DatasetInfo
from lbtrain.data.augment import draws
from lbtrain.data.coco import CocoSource
from lbtrain.data.loading import in_order
from lbtrain.data.outlines import polygons
from lbtrain.data.stream import PADDING, Block, train_blocks
from lbtrain.errors import DataError, RecipeError
from lbtrain.recipe import Recipe
from lbtrain.tasks.detection import Detection
from lbtrain.tasks.detectron2_configs import config_of, load_weights, mapper_of, network_of
from lbtrain.tasks.loss_units import heads_in_units


@dataclass(frozen=True)
class MappedBatch:
    """A micro-batch as detectron2 takes it: the mapper's dicts, with the seed of each image's own random
    numbers.
    """

    inputs: list[dict[str, Any]]
    keys: list[int]
    indices: list[int]

    def __getitem__(self, some: slice) -> "MappedBatch":
        return MappedBatch(self.inputs[some], self.keys[some], self.indices[some])


def build_model(recipe: Recipe, known: DatasetInfo) -> nn.Module:
    """The network of the config with its initial weights, seeded by the recipe alone. Raises RecipeError for
    a config that cannot be trained here.
    """
    config = config_of(recipe, known.num_classes)
    torch.manual_seed(recipe.seed)
    model = network_of(config, recipe)
    for is_train in (True, False):  # a plan rejects what they reject; the tasks make their own
        mapper_of(config, is_train, recipe)
    if recipe.model.weights and next(model.parameters()).device.type != "meta":
        load_weights(model, recipe.model.weights)
    own: Any = model
    own.seeds = seed_sampling(model)
    own.roi_heads.forward = functools.partial(_heads_in_units, own.roi_heads.forward, recipe.loss_batch_size)
    own.forward = functools.partial(_forward, model, own.forward)
    return model


class _Seeds:
    """The seeds of the images that a pass holds, taken one by one by each of the two samplers."""

    def __init__(self) -> None:
        self.waiting: list[list[int]] = [[], []]

    def expect(self, keys: list[int]) -> None:
        self.waiting = [list(keys), list(keys)]

    def seeded(self, sampler: Callable[..., Any], number: int) -> Callable[..., Any]:
        def sample(*arguments: Any) -> Any:
            torch.manual_seed(self.waiting[number].pop(0) ^ number)
            return sampler(*arguments)

        return sample


def seed_sampling(model: nn.Module) -> _Seeds:
    """Makes detectron2's two samplers draw by the seed of the image; returns what tells them the images of a
    pass.
    """
    seeds, parts = _Seeds(), cast(Any, model)
    parts.proposal_generator._subsample_labels = seeds.seeded(parts.proposal_generator._subsample_labels, 0)
    parts.roi_heads._sample_proposals = seeds.seeded(parts.roi_heads._sample_proposals, 1)
    return seeds


def _forward(model: nn.Module, forward: Callable[..., Any], batch: MappedBatch) -> Any:
    """The losses by name in training, else per image boxes, labels (1 for the first class), scores and
    masks.
    """
    from detectron2.utils.events import EventStorage

    cast(Any, model).seeds.expect(batch.keys)
    with EventStorage():
        outputs = forward(batch.inputs)
    return outputs if model.training else [_found(output["instances"]) for output in outputs]


def _found(instances: Any) -> dict[str, Tensor]:
    return {
        "boxes": instances.pred_boxes.tensor,
        "labels": instances.pred_classes + 1,
        "scores": instances.scores,
        "masks": instances.pred_masks,
    }


def _heads_in_units(heads: Callable[..., Any], unit: int, images: Any, *rest: Any) -> Any:
    """detectron2's heads take the images before what torchvision's take."""
    return heads_in_units(functools.partial(heads, images), unit, *rest)


def outputs_of(recipe: Recipe, model: nn.Module, num_images: int) -> tuple[nn.Module, list[Tensor]]:
    """The backbone with its pyramid, and their features of so many images of the configs' usual largest size,
    on the meta device.
    """
    backbone = cast(nn.Module, model.backbone)
    return backbone, list(backbone(torch.empty(num_images, 3, 800, 1344, device="meta")).values())


class Detectron2Segmentation(Detection):
    """`Detection` with detectron2's mapper in place of ours."""

    def __init__(self, recipe: Recipe, device: torch.device):
        if recipe.data.name != "coco":
            raise RecipeError(
                f"data.name={recipe.data.name}: detectron2's mapper reads files, so it takes coco alone"
            )
        super().__init__(recipe, device)
        config = config_of(recipe, len(self.train_source.class_names))
        seed = recipe.seed
        self.train_mapped = _Mapped(
            cast(CocoSource, self.train_source), mapper_of(config, True, recipe), seed
        )
        self.eval_mapped = _Mapped(cast(CocoSource, self.eval_source), mapper_of(config, False, recipe), seed)

    def batches(
        self, *, start: int, micro_batch_size: int, rank: int, world_size: int, image_size: int | None = None
    ) -> Iterator[Any]:
        blocks = train_blocks(
            self.stream, start=start, micro_batch_size=micro_batch_size, rank=rank, world_size=world_size
        )
        yield from self._mapped(self.train_mapped, blocks)

    def _evaluation(self, micro_batch_size: int, rank: int, world_size: int) -> Iterator[tuple[Block, Any]]:
        """One image at a time, as detectron2 scores."""
        order = np.arange(-(-len(self.eval_source) // world_size) * world_size)[rank::world_size]
        blocks = [
            Block(
                np.array([0 if at < len(self.eval_source) else PADDING]),
                np.array([at % len(self.eval_source)]),
            )
            for at in order
        ]
        yield from zip(blocks, self._mapped(self.eval_mapped, blocks), strict=True)

    def _mapped(self, data: "_Mapped", blocks: Any) -> Iterator[MappedBatch]:
        return in_order(data, blocks, workers=self.recipe.data.workers)


create = Detectron2Segmentation


class _Mapped(Dataset[MappedBatch]):
    """A data set whose item is a whole micro-batch, mapped image by image."""

    def __init__(self, source: CocoSource, mapper: Callable[[dict[str, Any]], dict[str, Any]], seed: int):
        self.source, self.mapper, self.seed = source, mapper, seed

    def __getitem__(self, block: Block) -> MappedBatch:
        key, augmentation = (values >> np.uint64(1) for values in draws(block, self.seed, 2))
        inputs = []
        for index, seed in zip(block.indices, augmentation, strict=True):
            with _seeded(int(seed) % 2**32):
                inputs.append(self._mapped(int(index)))
        return MappedBatch(inputs, key.tolist(), block.indices.tolist())

    def _mapped(self, index: int) -> dict[str, Any]:
        record = _record(self.source, index)
        try:
            self.source.check_format(record["file_name"])  # the mapper would start a program for some
            return self.mapper(record)
        except Exception as error:
            # Pillow's, pycocotools' bare ones, the mapper's own for an image of another size than stated.
            reason = f"{type(error).__name__}: {error}"
            raise DataError(
                f"{record['file_name']}: image {record['image_id']} cannot be read by detectron2's mapper: "
                f"{reason}"
            ) from error


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The generators that detectron2's augmentations draw from."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _record(source: CocoSource, index: int) -> dict[str, Any]:
    """One image in detectron2's dataset format; classes count from 0."""
    from detectron2.structures import BoxMode

    image, objects = source.raw(index)
    annotations = [
        {
            "bbox": annotation["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": label - 1,
            "iscrowd": 0,
            "segmentation": _outline(annotation["segmentation"]),
        }
        for annotation, label in objects
    ]
    return {
        "file_name": str(source.folder / image["file_name"]),
        "height": image["height"],
        "width": image["width"],
        "image_id": image["id"],
        "annotations": annotations,
    }


def _outline(outline: Any) -> Any:
    if isinstance(outline, list):
        return polygons(outline)
    return rle.frPyObjects(outline, *outline["size"]) if isinstance(outline["counts"], list) else outline
