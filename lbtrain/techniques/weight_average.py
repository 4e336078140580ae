"""An exponential moving average of the weights (timm's ModelEmaV3), scored beside the weights themselves and
kept in the checkpoint.

Source: Polyak & Juditsky 1992; as used for networks by Szegedy et al. 2016, section 8.
The average moves once per optimizer step, batch-norm statistics included. A larger batch makes fewer steps,
so that the same memory in examples needs a smaller decay (lbtrain.plan.scaling.ema_decay). Cost: one pass
over the weights a step, as much memory as the weights on every rank, and a second evaluation.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from lbtrain.errors import RecipeError

KEY = "state_dict_ema"
"""Where timm looks for an average in a checkpoint, and takes it before the weights."""


class WeightAverage:
    """Of `model`, the bare one that an engine trains; parameters sharded by ZeRO-3 cannot be averaged."""

    def __init__(self, model: nn.Module, *, decay: float, warmup: bool = False):
        self.model = _EachOnce(model)
        self.ema = ModelEmaV3(self.model, decay=decay, use_warmup=warmup)
        self.average: nn.Module = self.ema.module.module
        buffers = zip(self.average.buffers(), model.buffers(), strict=True)
        self._infinite = [(ours, theirs) for ours, theirs in buffers if theirs.isinf().any()]

    def update(self, step: int, decay: float | None = None) -> None:
        """After optimizer step number `step`, counted from 1; the first one copies the weights. `decay`: that
        of this step, where the batch has grown.
        """
        self.ema.decay = self.ema.decay if decay is None else decay
        self.ema.update(self.model, step=step)
        for ours, theirs in self._infinite:  # bounds of clamps, say, whose average with themselves is NaN
            ours.copy_(theirs)

    @contextlib.contextmanager
    def in_place_of_the_weights(self) -> Iterator[None]:
        """The model computes with the average meanwhile, whatever wraps it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for ours, theirs in zip(
            self.ema.module.state_dict().values(), self.model.state_dict().values(), strict=True
        ):
            kept = ours.clone()
            ours.copy_(theirs)
            theirs.copy_(kept)

    def state(self) -> dict[str, Any]:
        return {KEY: {name: tensor.cpu() for name, tensor in self.average.state_dict().items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        if KEY not in state:
            raise RecipeError(
                "ema.decay: the checkpoint holds no average of the weights; choose another run_dir, or set "
                "ema.decay=0"
            )
        self.average.load_state_dict(state[KEY])


class _EachOnce(nn.Module):
    """A model whose state dict holds a tensor with several names, such as a weight that two layers share,
    under one of them: what goes through all tensors meets each once.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        tensors = self.module.state_dict(keep_vars=True)
        once = {id(tensor): (name, tensor) for name, tensor in tensors.items()}
        return {name: tensor.detach() for name, tensor in once.values()}
