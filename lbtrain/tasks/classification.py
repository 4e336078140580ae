"""Image classification with timm's models: what the loop needs to know about the job, and nothing about engines.

The loss is the mean over the images of a micro-batch. All micro-batches of a step are equally large, so the engines' average over
accumulation steps and ranks is the mean over the global batch (Goyal et al. 2017, remark 3).
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lbtrain.data import Facts, Source, batches, facts, open_source
from lbtrain.data.sources import Batch
from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe
from lbtrain.sampling import PADDING, SampleStream, evaluation_blocks, train_blocks
from lbtrain.tasks.protocol import Evaluation, Headline


def build_model(recipe: Recipe, known: Facts) -> nn.Module:
    """The network with its initial weights, seeded by the recipe alone. Raises RecipeError for a model that timm does not have."""
    import timm

    import lbtrain.nn  # noqa: F401  registers its models with timm

    torch.manual_seed(recipe.seed)
    try:
        model = timm.create_model(recipe.model.name, num_classes=known.num_classes, in_chans=known.channels, **recipe.model.args)
    except (RuntimeError, TypeError, ValueError) as error:
        near = timm.list_models(f"*{recipe.model.name[:8]}*")[:5]
        hint = f" (timm has {', '.join(near)})" if near else ""
        raise RecipeError(f"model.name={recipe.model.name} with model.args={recipe.model.args}: {error}{hint}") from error
    if recipe.model.head_std:
        nn.init.normal_(cast(Any, model).get_classifier().weight, std=recipe.model.head_std)
    return model


class Classification:
    """See `Task`. Metrics of an evaluation: `top1_error` and `top5_error` in percent, `loss` the mean cross-entropy in nats."""

    headline = Headline("top1_error", "top-1 error", higher_is_better=False)

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe = recipe
        self.device = device
        self.train_source: Source = open_source(recipe.data, train=True, seed=recipe.seed)
        self.eval_source: Source = open_source(recipe.data, train=False, seed=recipe.seed)

    def batches(self, *, start: int, micro_batch_size: int, rank: int, world_size: int) -> Iterator[Batch]:
        stream = SampleStream(len(self.train_source), self.recipe.seed)
        blocks = train_blocks(stream, start=start, micro_batch_size=micro_batch_size, rank=rank, world_size=world_size)
        loaded = batches(self.train_source, blocks, workers=self.recipe.data.workers, device=self.device)
        for number, batch in enumerate(loaded):
            # Dropout draws from the global generator: seeded by position, it goes on alike after a restart, with nothing to save.
            torch.manual_seed(hash((self.recipe.seed, start + number * micro_batch_size * world_size + rank * micro_batch_size)))
            yield batch

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images, labels = batch
        return {"loss": F.cross_entropy(model(images).float(), labels)}

    def evaluate(self, model: nn.Module, *, micro_batch_size: int, rank: int, world_size: int) -> Evaluation:
        sums = self._sums(model, micro_batch_size, rank, world_size)
        dist.all_reduce(sums)
        examples, loss, top1, top5 = sums.tolist()
        return Evaluation({"top1_error": 100 * (1 - top1 / examples), "top5_error": 100 * (1 - top5 / examples), "loss": loss / examples})

    @torch.no_grad()
    def _sums(self, model: nn.Module, micro_batch_size: int, rank: int, world_size: int) -> Tensor:
        """Over this rank's share of the evaluation set: (examples, summed loss, top-1 hits, top-5 hits), float64."""
        blocks = list(evaluation_blocks(len(self.eval_source), micro_batch_size=micro_batch_size, rank=rank, world_size=world_size))
        loaded = batches(self.eval_source, blocks, workers=self.recipe.data.workers, device=self.device)
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for block, (images, labels) in zip(blocks, loaded, strict=True):
            scores = model(images).float()
            scored = torch.from_numpy(block.epochs != PADDING).to(self.device)
            hits = (scores.topk(min(5, scores.shape[1])).indices == labels[:, None]) & scored[:, None]
            losses = F.cross_entropy(scores, labels, reduction="none") * scored
            sums += torch.stack([scored.sum().double(), losses.double().sum(), hits[:, 0].sum().double(), hits.sum().double()])
        return sums


def input_shape(recipe: Recipe) -> tuple[int, int, int]:
    """(channels, height, width) of one image as the network sees it."""
    known = facts(recipe.data)
    return known.channels, known.image_size, known.image_size
