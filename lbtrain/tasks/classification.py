"""Image classification with timm's models: what the loop needs to know about the job, and nothing about
engines.

The loss is the mean over the images of a micro-batch. All micro-batches of a step are equally large, so the
engines' average over accumulation steps and ranks is the mean over the global batch (Goyal et al. 2017,
remark 3).
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lbtrain.data import DatasetInfo, Source, batches, dataset_info, open_source
from lbtrain.data.index import DatasetIndex
from lbtrain.data.loss_weights import noisy_weights
from lbtrain.data.mixup import mixup, mixup_shares
from lbtrain.data.registry import PHOTOS
from lbtrain.data.sources import Batch
from lbtrain.data.stream import PADDING, SampleStream, Stream, evaluation_blocks, train_blocks, whole_groups
from lbtrain.recipe import Recipe
from lbtrain.tasks.protocol import Evaluation, PrimaryMetric

TrainingBatch = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
"""Images; labels (n,), or probabilities (n, classes) with mixup; with multiplicative noise also the weight of
each example's loss (n,).
"""


def build_model(recipe: Recipe, known: DatasetInfo) -> nn.Module:
    """The network with its initial weights, seeded by the recipe alone. Raises RecipeError for a model that
    timm does not have, or not with these arguments.
    """
    from lbtrain.tasks.timm_models import create_classifier
    from lbtrain.tasks.weights import load_classifier

    torch.manual_seed(recipe.seed)
    model = create_classifier(
        recipe.model.name, recipe.model.args, num_classes=known.num_classes, channels=known.channels
    )
    if recipe.model.head_std:
        nn.init.normal_(cast(Any, model).get_classifier().weight, std=recipe.model.head_std)
    if recipe.model.weights and next(model.parameters()).device.type != "meta":
        load_classifier(model, recipe.model)
    return model


class Classification:
    """See `Task`. Metrics of an evaluation: `top1_error` and `top5_error` in percent, `loss` the mean
    cross-entropy in nats; none without validation images.
    """

    primary_metric = PrimaryMetric("top1_error", "top-1 error", higher_is_better=False)

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe = recipe
        self.device = device
        self.known = dataset_info(recipe.data)
        seed, model = recipe.seed, recipe.model.name
        self.train_source: Source = open_source(recipe.data, train=True, seed=seed, model=model)
        self.eval_source: Source = open_source(recipe.data, train=False, seed=seed, model=model)
        self.stream: Stream = SampleStream(len(self.train_source), recipe.seed)

    def index(self) -> DatasetIndex:
        return DatasetIndex(self.train_source.index, self.eval_source.index)

    def batches(
        self, *, start: int, micro_batch_size: int, rank: int, world_size: int
    ) -> Iterator[TrainingBatch]:
        # With mixup, a micro-batch that holds a part of a group needs the rest of it for its partners.
        group = self.recipe.bn_batch_size if self.recipe.loss.mixup else 1
        split = dict(micro_batch_size=micro_batch_size, rank=rank, world_size=world_size)
        blocks = train_blocks(self.stream, start=start, group=group, **split)
        loaded = batches(self.train_source, blocks, workers=self.recipe.data.workers, device=self.device)
        for number, batch in enumerate(loaded):
            first = start + (number * world_size + rank) * micro_batch_size
            # Dropout draws from the global generator: seeded by position, it goes on alike after a restart,
            # with nothing to save.
            torch.manual_seed(hash((self.recipe.seed, first)))
            yield self._prepared(batch, first, micro_batch_size)

    def _prepared(self, batch: Batch, first: int, length: int) -> TrainingBatch:
        """The micro-batch at position `first`, mixed and weighted as the recipe says."""
        loss, seed = self.recipe.loss, self.recipe.seed
        if loss.mixup:
            group = self.recipe.bn_batch_size
            origin, whole = whole_groups(first, length, group)
            shares = mixup_shares(origin, whole, group, alpha=loss.mixup, seed=seed)
            images, labels = mixup(batch, shares, group=group, num_classes=self.known.num_classes)
            batch = images[first - origin :][:length], labels[first - origin :][:length]
        if not loss.multiplicative_noise:
            return batch
        weights = noisy_weights(self.stream.block(first, length), sigma=loss.multiplicative_noise, seed=seed)
        return *batch, weights.to(self.device, non_blocking=True)

    def loss(self, model: nn.Module, batch: TrainingBatch) -> dict[str, Tensor]:
        images, labels, *weights = batch
        scores, smoothing = model(images).float(), self.recipe.loss.label_smoothing
        if not weights:
            return {"loss": F.cross_entropy(scores, labels, label_smoothing=smoothing)}
        losses = F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="none")
        return {"loss": (losses * weights[0]).mean()}

    def evaluate(self, model: nn.Module, *, micro_batch_size: int, rank: int, world_size: int) -> Evaluation:
        if not len(self.eval_source):
            return Evaluation({})
        sums = self._sums(model, micro_batch_size, rank, world_size)
        dist.all_reduce(sums)
        examples, loss, top1, top5 = sums.tolist()
        return Evaluation(
            {
                "top1_error": 100 * (1 - top1 / examples),
                "top5_error": 100 * (1 - top5 / examples),
                "loss": loss / examples,
            }
        )

    @torch.no_grad()
    def _sums(self, model: nn.Module, micro_batch_size: int, rank: int, world_size: int) -> Tensor:
        """Over this rank's share of the evaluation set: (examples, summed loss, top-1 hits, top-5 hits),
        float64.
        """
        blocks = list(
            evaluation_blocks(
                len(self.eval_source), micro_batch_size=micro_batch_size, rank=rank, world_size=world_size
            )
        )
        loaded = batches(self.eval_source, blocks, workers=self.recipe.data.workers, device=self.device)
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for block, (images, labels) in zip(blocks, loaded, strict=True):
            scores = model(images).float()
            scored = torch.from_numpy(block.epochs != PADDING).to(self.device, non_blocking=True)
            hits = (scores.topk(min(5, scores.shape[1])).indices == labels[:, None]) & scored[:, None]
            losses = F.cross_entropy(scores, labels, reduction="none") * scored
            sums += torch.stack(
                [scored.sum().double(), losses.double().sum(), hits[:, 0].sum().double(), hits.sum().double()]
            )
        return sums


create = Classification


def outputs_of(recipe: Recipe, model: nn.Module, num_images: int) -> tuple[nn.Module, list[Tensor]]:
    """The whole network and its scores for so many images, on the meta device. Raises RecipeError for a model
    that does not take them, or does not return scores.
    """
    from lbtrain.tasks.timm_models import scores_of

    known = dataset_info(recipe.data)
    images = torch.empty(num_images, known.channels, known.image_size, known.image_size, device="meta")
    fixed = "" if recipe.data.name in (*PHOTOS, "synthetic") else recipe.data.name
    scores = scores_of(model, images, name=recipe.model.name, args=recipe.model.args, fixed=fixed)
    return model, [scores]
