"""Detection, with masks or with boxes alone as the model has them: what the loop needs to know about the job,
and nothing about engines.

What each loss is a mean over, and what K ranks mean against one, is in lbtrain.tasks.loss_units and
docs/detection.md.
"""

import difflib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Dataset

from lbtrain.data import DatasetInfo, dataset_info, open_instances
from lbtrain.data.grouping import GroupedStream, kinds_of
from lbtrain.data.index import DatasetIndex
from lbtrain.data.instances import InstanceBatch, InstanceSource, Item, Preparation, padded
from lbtrain.data.loading import in_order
from lbtrain.data.stream import PADDING, Block, SampleStream, Stream
from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe
from lbtrain.tasks.coco_score import (
    NAMES,
    TWELVE_NAMES,
    Found,
    as_detections,
    from_all_ranks,
    outlines_of,
    with_classes,
)
from lbtrain.tasks.pictures import drawn
from lbtrain.tasks.protocol import Evaluation, Losses, Report, primary_metric_of

_PICTURED = 6


def build_model(recipe: Recipe, known: DatasetInfo) -> nn.Module:
    """The detector with its initial weights, seeded by the recipe alone. Raises RecipeError for a backbone or
    an argument that cannot be.
    """
    from lbtrain.tasks.backbones import create_backbone, levels_of
    from lbtrain.tasks.torchvision_models import DETECTORS
    from lbtrain.tasks.weights import load_detector

    detector = DETECTORS[recipe.model.detector]
    arguments, levels = _head_arguments(recipe), levels_of(recipe, detector.strides)
    torch.manual_seed(recipe.seed)
    body = create_backbone(recipe, levels)
    try:
        model = detector(body, known.num_classes, **arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"model.args={recipe.model.args}: {error}") from error
    model.normalise_inputs(known.mean, known.std)
    model.normalise_over(recipe.loss_batch_size)
    if recipe.model.weights and next(model.parameters()).device.type != "meta":
        load_detector(model, body, recipe.model)
    return model


def _head_arguments(recipe: Recipe) -> dict[str, Any]:
    """Raises RecipeError for a name that is none of them."""
    from lbtrain.tasks.torchvision_models import DETECTORS, argument_names

    known = ["backbone", "frozen", *argument_names(DETECTORS[recipe.model.detector])]
    for name in recipe.model.args:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
            raise RecipeError(
                f"model.args: {name} is not an argument of model.detector={recipe.model.detector} here: "
                f"{remedy}"
            )
    return {name: value for name, value in recipe.model.args.items() if name not in ("backbone", "frozen")}


def outputs_of(recipe: Recipe, model: nn.Module, num_images: int) -> tuple[nn.Module, list[Tensor]]:
    """The backbone with its pyramid, and their features of so many images of the largest size, on the meta
    device. The heads are left out: their activations depend on what is found.
    """
    short = max(_short_edges(recipe))
    rows, columns = padded(np.array([[short, max(short, recipe.data.max_size)]]))
    backbone = cast(nn.Module, model.backbone)
    features = backbone(torch.empty(num_images, 3, rows, columns, device="meta"))
    return backbone, list(features.values())


def _short_edges(recipe: Recipe) -> tuple[int, ...]:
    return tuple(int(edge) for edge in recipe.data.short_edges) or (dataset_info(recipe.data).image_size,)


class Detection:
    """See `Task`. Metrics of an evaluation: COCO's average precision of masks, where the model finds masks,
    and of boxes, in percent.
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe = recipe
        self.device = device
        self.primary_metric = primary_metric_of(recipe)
        self.known = dataset_info(recipe.data)
        self.train_source, self.eval_source = (self._opened(train=train) for train in (True, False))
        edges, longest = _short_edges(recipe), recipe.data.max_size
        self.train_preparation = Preparation(
            edges,
            longest,
            flip=recipe.data.augmentation == "flip",
            seed=recipe.seed,
            masks="mask" in recipe.model.finds,
            square=recipe.data.square,
        )
        self.eval_preparation = replace(self.train_preparation, short_edges=edges[-1:], flip=False)
        self.stream = self._stream()

    def _opened(self, *, train: bool) -> InstanceSource:
        """Raises RecipeError for a split without the outlines that the model learns from."""
        source = open_instances(self.recipe.data, train=train)
        if "mask" in self.recipe.model.finds and source.without_outline:
            raise RecipeError(
                f"{source.without_outline} has no segmentation, and Mask R-CNN learns from outlines. Use "
                "model.detector=faster_rcnn or retinanet, which learn from boxes."
            )
        return source

    def _stream(self) -> Stream:
        stream = SampleStream(len(self.train_source), self.recipe.seed)
        if self.recipe.data.group_by == "none":
            return stream
        return GroupedStream(
            stream, kinds_of(self.train_source.sizes, self.recipe.data.group_by), self.recipe.batch_size
        )

    def index(self) -> DatasetIndex:
        return DatasetIndex(self.train_source.index, self.eval_source.index)

    def about(self) -> dict[str, Any]:
        prepared = self.eval_preparation
        sizes = {"size": prepared.short_edges[-1], "longest": prepared.max_size, "square": prepared.square}
        inputs: dict[str, Any] = {"channels": 3, "photos": True} | sizes
        if self.recipe.model.library == "torchvision":  # detectron2 has its config's
            inputs |= {"mean": list(self.known.mean), "std": list(self.known.std)}
        return {"class_names": list(self.train_source.class_names), "inputs": inputs}

    def batches(
        self, *, start: int, micro_batch_size: int, rank: int, world_size: int, image_size: int | None = None
    ) -> Iterator[InstanceBatch]:
        first, stride = start + rank * micro_batch_size, world_size * micro_batch_size
        items = (
            Item(self.stream.block(position, micro_batch_size), self._step_size(position))
            for position in itertools.count(first, stride)
        )
        loaded = _loaded(
            self.train_source, self.train_preparation, items, self.recipe.data.workers, self.device
        )
        for position, batch in zip(itertools.count(first, stride), loaded, strict=False):
            # Of dropout and the like; proposals are sampled by their images' own seeds.
            torch.manual_seed(hash((self.recipe.seed, position)))
            yield batch

    def _step_size(self, position: int) -> tuple[int, int]:
        """(height, width) that hold all images of the step that the position lies in."""
        step = self.recipe.batch_size
        block = self.stream.block(position // step * step, step)
        return padded(self.train_preparation.sizes(block, self.train_source.sizes[block.indices]))

    def loss(self, model: nn.Module, batch: InstanceBatch) -> Losses:
        return Losses(model(batch))

    def evaluate(self, model: nn.Module, *, micro_batch_size: int, rank: int, world_size: int) -> Evaluation:
        if not len(self.eval_source):
            return Evaluation({})
        found = from_all_ranks(self._found(model, micro_batch_size, rank, world_size))
        report = self._scored(found)
        return Evaluation(report.metrics, report.pictures)

    def report(
        self, model: nn.Module, *, train: bool, micro_batch_size: int, rank: int, world_size: int
    ) -> Report:
        if train:
            raise RecipeError("--split train: detection is scored on the validation split. Use --split val.")
        if not len(self.eval_source):
            raise RecipeError(
                "The data set has no validation images, on which detection is scored. Name some with "
                "data.validation_root=FOLDER."
            )
        found = from_all_ranks(self._found(model, micro_batch_size, rank, world_size))
        return self._scored(found, TWELVE_NAMES)

    def _scored(self, found: list[Found] | None, names: Sequence[str] = NAMES) -> Report:
        """`found` on all ranks, as rank 0 has it; the same on every rank. Collective."""
        report = [None if found is None else self._report(found, names)]
        dist.broadcast_object_list(report)
        return cast(Report, report[0])

    def _report(self, found: list[Found], names: Sequence[str]) -> Report:
        samples = [self.eval_source[index] for index in range(min(_PICTURED, len(self.eval_source)))]
        of_sample = [
            [detection for detection in found if detection["image_id"] == sample.image_id]
            for sample in samples
        ]
        labels = {
            self.eval_source.category_id(label): label
            for label in range(1, len(self.eval_source.class_names) + 1)
        }
        pictures = {"detections": drawn(samples, of_sample, self.eval_source.class_names, labels)}
        truth = self.eval_source.ground_truth()
        metrics, classes = with_classes(truth, found, names, kinds=self.recipe.model.finds)
        return Report(metrics, {"classes": classes}, pictures)

    @torch.no_grad()
    def _found(self, model: nn.Module, micro_batch_size: int, rank: int, world_size: int) -> list[Found]:
        """What the model finds on this rank's share of the evaluation set."""
        found: list[Found] = []
        for block, batch in self._evaluation(micro_batch_size, rank, world_size):
            for index, epoch, result in zip(block.indices.tolist(), block.epochs, model(batch), strict=True):
                if epoch != PADDING:
                    found += self._detections(index, result)
        return found

    def _evaluation(self, micro_batch_size: int, rank: int, world_size: int) -> Iterator[tuple[Block, Any]]:
        items = evaluation_items(self.eval_source, self.eval_preparation, micro_batch_size, rank, world_size)
        loaded = _loaded(
            self.eval_source, self.eval_preparation, items, self.recipe.data.workers, self.device
        )
        return ((item.block, batch) for item, batch in zip(items, loaded, strict=True))

    def _detections(self, index: int, result: dict[str, Tensor]) -> list[Found]:
        category_ids = [self.eval_source.category_id(int(label)) for label in result["labels"]]
        outlines = outlines_of(result, tuple(self.eval_source.sizes[index]))
        return as_detections(
            self.eval_source.image_id(index), category_ids, result["boxes"], result["scores"], outlines
        )


def evaluation_items(
    source: InstanceSource, preparation: Preparation, micro_batch_size: int, rank: int, world_size: int
) -> list[Item]:
    """This rank's share of an evaluation: over all ranks every image is scored once, in a batch of images of
    its own padded size only, so that its detections do not depend on the batch split. All ranks get equally
    many batches; the filling is marked PADDING.
    """
    indices = np.arange(len(source))
    sizes = -(-preparation.sizes(Block.of(indices), source.sizes) // 32) * 32
    batches = []
    for size in np.unique(sizes, axis=0):
        alike = indices[(sizes == size).all(1)]
        batches += [Item(Block.of(alike[first : first + micro_batch_size]), (int(size[0]), int(size[1])))
                    for first in range(0, len(alike), micro_batch_size)]  # fmt: skip
    while len(batches) % world_size:
        batches.append(Item(Block(np.array([PADDING]), batches[0].block.indices[:1]), batches[0].pad_to))
    return batches[rank::world_size]


class _Items(Dataset[InstanceBatch]):
    """A data set whose item is a whole micro-batch."""

    def __init__(self, source: InstanceSource, preparation: Preparation):
        self.source, self.preparation = source, preparation

    def __getitem__(self, item: Item) -> InstanceBatch:
        return self.preparation.batch(self.source, item)


def _loaded(
    source: InstanceSource,
    preparation: Preparation,
    items: Iterable[Item],
    workers: int,
    device: torch.device,
) -> Iterator[InstanceBatch]:
    for batch in in_order(_Items(source, preparation), items, workers=workers, pinned=device.type == "cuda"):
        yield batch.to(device)


create = Detection
