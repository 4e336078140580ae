"""Which layers the ranks call, where a forward pass exchanges weights (ZeRO-3)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import nn

from lbtrain.errors import RecipeError

_END = "no further layer"


class SameLayers:
    """Ends a rank that calls another layer than rank 0 does in the first pass in training, or than that pass
    did in a later one. It would wait for the others until the time limit of the exchange, or compute with
    the weights of their layer. Collective in the first pass.

    Each call is told to `at`.
    """

    def __init__(self, model: nn.Module, at: Callable[[str], None]):
        self._at, self._first, self._known, self._place = at, list[str](), False, -1
        for name, layer in model.named_modules():
            if any(True for _ in layer.parameters(recurse=False)):  # prepended: before the exchange
                layer.register_forward_pre_hook(partial(self._call, name), prepend=True)
        model.register_forward_pre_hook(self._start, prepend=True)
        model.register_forward_hook(self._end)

    def _start(self, model: nn.Module, *_: Any) -> None:
        self._place = 0 if model.training else -1

    def _end(self, *_: Any) -> None:
        self._compare(_END)
        self._known, self._place = self._known or self._place > 0, -1

    def _call(self, name: str, *_: Any) -> None:
        self._at(name)
        self._compare(name)

    def _compare(self, name: str) -> None:
        if self._place < 0:
            return  # in an evaluation, or once more in a backward pass that has not kept its activations
        if not self._known:
            of_rank_0 = [name]
            dist.broadcast_object_list(of_rank_0)
            self._first += of_rank_0
        expected = self._first[self._place]
        self._place += 1
        if name != expected:
            raise RecipeError(
                f"rank {dist.get_rank()} calls {name or 'the model'} where "
                f"{'the first pass' if self._known else 'rank 0'} called {expected or 'the model'}: ZeRO-3 "
                "exchanges weights in the order of the calls, and needs the same layers in every step and on "
                "every rank. Use deepspeed.zero_stage=2"
            )
