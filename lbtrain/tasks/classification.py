"""Image classification with timm's models: what the loop needs to know about the job, and nothing about
engines.

The loss is the mean over the images of a micro-batch. All micro-batches of a step are equally large, so the
engines' average over accumulation steps and ranks is the mean over the global batch (Goyal et al. 2017,
remark 3).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn

from lbtrain.data import DatasetInfo, Source, batches, dataset_info, open_source
from lbtrain.data.augment import draws, fractions
from lbtrain.data.class_names import class_names
from lbtrain.data.index import DatasetIndex
from lbtrain.data.loss_weights import noisy_weights
from lbtrain.data.mixing import draw_mixes, mix
from lbtrain.data.registry import PHOTOS, pixel_rules
from lbtrain.data.sources import NOT_SCORED, Batch
from lbtrain.data.stream import (
    PADDING,
    Block,
    SampleStream,
    Stream,
    evaluation_blocks,
    train_blocks,
    whole_groups,
)
from lbtrain.errors import RecipeError
from lbtrain.nn import convert_drop_path, drop_path_layers, head_names
from lbtrain.recipe import DataConfig, Recipe
from lbtrain.recipe.sections import ModelConfig
from lbtrain.tasks.class_scores import ClassScores
from lbtrain.tasks.confusion import drawn
from lbtrain.tasks.protocol import Evaluation, Losses, Report, primary_metric_of
from lbtrain.tasks.weights import load_classifier, published_name

TrainingBatch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
"""Images; labels (n,), or probabilities (n, classes) where images are mixed; with multiplicative noise also
the weight of each example's loss (n,).
"""
_SALT = 1 << 37
"""Keeps the draws of drop path apart from the others of the seed."""


def build_model(recipe: Recipe, known: DatasetInfo) -> nn.Module:
    """The network with its initial weights, seeded by the recipe alone. Raises RecipeError for a model that
    timm does not have, or not with these arguments.
    """
    from lbtrain.tasks.timm_models import create_classifier

    torch.manual_seed(recipe.seed)
    args = recipe.model.args | ({"drop_path_rate": recipe.model.drop_path} if recipe.model.drop_path else {})
    model = create_classifier(recipe.model.name, args, num_classes=known.num_classes, channels=known.channels)
    convert_drop_path(model)
    if recipe.model.head_std:
        _draw_head(model, recipe.model)
    if recipe.model.weights and next(model.parameters()).device.type != "meta":
        load_classifier(model, recipe.model)
    return model


def _draw_head(model: nn.Module, config: ModelConfig) -> None:
    """Raises RecipeError for a model whose classifier timm does not tell."""
    weights = [each for each in map(model.get_parameter, sorted(head_names(model))) if each.dim() > 1]
    if not weights:
        raise RecipeError(
            f"model.head_std={config.head_std:g}: model.name={config.name} has no classifier with a matrix "
            "of weights that timm tells of. Use model.head_std=0"
        )
    for weight in weights:
        nn.init.normal_(weight, std=config.head_std)


class Classification:
    """See `Task`. Metrics of an evaluation: `top1_error` and, of more than five classes, `top5_error` in
    percent, `loss` the mean cross-entropy in nats; none without validation images.
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe = recipe
        self.device = device
        self.primary_metric = primary_metric_of(recipe)
        self.known = dataset_info(recipe.data)
        seed, model = recipe.seed, published_name(recipe.model)
        self.train_source: Source = open_source(recipe.data, train=True, seed=seed, model=model)
        self.eval_source: Source = open_source(recipe.data, train=False, seed=seed, model=model)
        self.stream: Stream = SampleStream(
            len(self.train_source), seed, recipe.data.repeats, recipe.bn_batch_size
        )
        self.first = 0
        """Position in the run of the micro-batch that was handed out last."""

    def index(self) -> DatasetIndex:
        return DatasetIndex(self.train_source.index, self.eval_source.index)

    def about(self) -> dict[str, Any]:
        config, known = self.recipe.data, self.known
        names = class_names(config.name, self.train_source.index, known.num_classes)
        photos = config.name in PHOTOS
        inputs = {"channels": known.channels, "size": known.image_size, "photos": photos}
        inputs |= vars(pixel_rules(config, known, published_name(self.recipe.model)))
        return {"class_names": names, "inputs": {key: plain(value) for key, value in inputs.items()}}

    def batches(
        self, *, start: int, micro_batch_size: int, rank: int, world_size: int, image_size: int | None = None
    ) -> Iterator[TrainingBatch]:
        # A micro-batch that holds a part of a group needs the rest of it for its partners.
        loss = self.recipe.loss
        group = self.recipe.bn_batch_size if loss.mixup or loss.cutmix else 1
        split = dict(micro_batch_size=micro_batch_size, rank=rank, world_size=world_size)
        blocks = train_blocks(self.stream, start=start, group=group, **split)
        source = self.train_source.sized(image_size) if image_size else self.train_source
        loaded = batches(source, blocks, workers=self.recipe.data.workers, device=self.device)
        for number, batch in enumerate(loaded):
            first = start + (number * world_size + rank) * micro_batch_size
            # Dropout draws from the global generator: seeded by position, it goes on alike after a restart,
            # with nothing to save.
            torch.manual_seed(hash((self.recipe.seed, first)))
            self.first = first
            yield self._prepared(batch, first, micro_batch_size)

    def _prepared(self, batch: Batch, first: int, length: int) -> TrainingBatch:
        """The micro-batch at position `first`, mixed and weighted as the recipe says."""
        loss, seed = self.recipe.loss, self.recipe.seed
        if loss.mixup or loss.cutmix:
            batch = self._mixed(batch, first, length)
        if not loss.multiplicative_noise:
            return batch
        weights = noisy_weights(self.stream.block(first, length), sigma=loss.multiplicative_noise, seed=seed)
        return *batch, weights.to(self.device, non_blocking=True)

    def _mixed(self, batch: Batch, first: int, length: int) -> Batch:
        """The images at positions `first` to `first + length` of a batch of the whole groups around them."""
        loss, group = self.recipe.loss, self.recipe.bn_batch_size
        origin, whole = whole_groups(first, length, group)
        mixes = draw_mixes(
            origin,
            whole,
            group,
            mixup=loss.mixup,
            cutmix=loss.cutmix,
            cutmix_share=loss.cutmix_share,
            size=(batch[0].shape[2], batch[0].shape[3]),
            seed=self.recipe.seed,
        )
        images, labels = mix(batch, mixes, group=group, num_classes=self.known.num_classes)
        return images[first - origin :][:length], labels[first - origin :][:length]

    def loss(self, model: nn.Module, batch: TrainingBatch) -> Losses:
        images, labels, *weights = batch
        self._draw_paths(model, len(images))
        scores = model(images).float()
        losses = self._losses(scores, labels)
        mean = (losses * weights[0]).mean() if weights else losses.mean()
        return Losses({"loss": mean}, top1_error(scores.detach(), labels))

    def _draw_paths(self, model: nn.Module, length: int) -> None:
        """Gives the drop path layers draws that belong to the position of this micro-batch in the run."""
        # A function of the weights (lbtrain.analysis) is evaluated without drop path.
        layers = drop_path_layers(model) if isinstance(model, nn.Module) else []
        if not layers:
            return
        block = Block.of(np.arange(self.first, self.first + length))
        drawn = torch.from_numpy(fractions(draws(block, self.recipe.seed + _SALT, len(layers))))
        for layer, own in zip(layers, drawn.to(self.device, non_blocking=True), strict=True):
            layer.draws = own

    def _losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Of each image, shape (n,)."""
        config = self.recipe.loss
        smoothing, threshold = config.label_smoothing, config.target_threshold
        if config.form == "cross_entropy":
            return F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="none")
        if labels.dim() > 1:  # mixed, and left unsmoothed (see lbtrain.data.mixing)
            labels = labels * (1 - smoothing) + smoothing / labels.shape[1]
        bce = BinaryCrossEntropy(smoothing, target_threshold=threshold, reduction="none")
        losses: Tensor = bce(scores, labels).mean(1)
        return losses

    def evaluate(self, model: nn.Module, *, micro_batch_size: int, rank: int, world_size: int) -> Evaluation:
        if not len(self.eval_source):
            return Evaluation({})
        sums = self._sums(model, micro_batch_size, rank, world_size)
        dist.all_reduce(sums)
        examples, loss, top1, top5 = sums.tolist()
        metrics = {"top1_error": 100 * (1 - top1 / examples)}
        if self.known.num_classes > 5:
            metrics["top5_error"] = 100 * (1 - top5 / examples)
        return Evaluation(metrics | {"loss": loss / examples})

    @torch.no_grad()
    def _sums(self, model: nn.Module, micro_batch_size: int, rank: int, world_size: int) -> Tensor:
        """Over this rank's share of the evaluation set: (examples, summed loss, top-1 hits, top-5 hits),
        float64.
        """
        split = dict(micro_batch_size=micro_batch_size, rank=rank, world_size=world_size)
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for scores, labels, scored in self._scores(model, self.eval_source, **split):
            hits = (scores.topk(min(5, scores.shape[1])).indices == labels[:, None]) & scored[:, None]
            losses = F.cross_entropy(scores, labels, reduction="none", ignore_index=NOT_SCORED) * scored
            sums += torch.stack(
                [scored.sum().double(), losses.double().sum(), hits[:, 0].sum().double(), hits.sum().double()]
            )
        return sums

    def _scores(
        self, model: nn.Module, source: Source, **split: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of this rank's share of a split: scores (n, classes), labels (n,), and which of them count (n,)."""
        blocks = list(evaluation_blocks(len(source), **split))
        loaded = batches(source, blocks, workers=self.recipe.data.workers, device=self.device)
        for block, (images, labels) in zip(blocks, loaded, strict=True):
            scored = torch.from_numpy(block.epochs != PADDING).to(self.device, non_blocking=True)
            yield model(images).float(), labels, scored & (labels != NOT_SCORED)

    @torch.no_grad()
    def report(self, model: nn.Module, *, train: bool, **split: int) -> Report:
        source = self._unvaried_training_split() if train else self.eval_source
        if not len(source):
            raise RecipeError("The data set has no validation images. Use --split train.")
        sums, names = ClassScores(self.known.num_classes, self.device), self.about()["class_names"]
        for scores, labels, scored in self._scores(model, source, **split):
            sums.add(scores[scored], labels[scored])
        sums.reduce()
        matrix = sums.confusion.cpu()
        head = "true"
        while head in names:  # the class of that name has a column too
            head += " class"
        rows = [
            {head: name, **dict(zip(names, counts.tolist(), strict=True))}
            for name, counts in zip(names, matrix, strict=True)
        ]
        tables = {"classes": sums.classes(names), "confusion": rows}
        return Report(sums.metrics(), tables, {"confusion": drawn(matrix.numpy(), names)})

    def _unvaried_training_split(self) -> Source:
        plain = DataConfig()
        varying = ("augmentation", "min_crop_area", "auto_augment", "color_jitter", "random_erasing")
        config = dataclasses.replace(self.recipe.data, **{key: getattr(plain, key) for key in varying})
        if self.recipe.data.augmentation == "alexnet":  # which has a deviation of its own
            std = [str(value / 255) for value in self.known.std]
            config = dataclasses.replace(config, std=std)
        return open_source(config, train=True, seed=0, model=published_name(self.recipe.model), scored=True)


def top1_error(scores: Tensor, labels: Tensor) -> Tensor | None:
    """In percent; None for labels that are mixed."""
    return None if labels.dim() > 1 else 100 * (scores.argmax(1) != labels).float().mean()


def plain(value: Any) -> Any:
    """As a checkpoint holds it: lists of numbers."""
    return list(value) if isinstance(value, tuple) else value


create = Classification


def outputs_of(recipe: Recipe, model: nn.Module, num_images: int) -> tuple[nn.Module, list[Tensor]]:
    """The whole network and its scores for so many images, on the meta device. Raises RecipeError for a model
    that does not take them, or does not return scores.
    """
    from lbtrain.tasks.timm_models import scores_of

    known = dataset_info(recipe.data)
    images = torch.empty(num_images, known.channels, known.image_size, known.image_size, device="meta")
    fixed = "" if recipe.data.name in (*PHOTOS, "synthetic") else recipe.data.name
    drop_paths = drop_path_layers(model)
    try:
        for layer in drop_paths:
            layer.draws = images.new_empty(num_images)
        scores = scores_of(model, images, name=recipe.model.name, args=recipe.model.args, fixed=fixed)
    finally:
        for layer in drop_paths:
            layer.draws = None
    return model, [scores]
