"""The running statistics of ghost batch norm: one update per optimizer step, the same on every rank."""

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lbtrain.nn.ghost_bn import GhostBatchNorm


class GhostStatistics:
    """Moves a model's running statistics once per optimizer step, by the average over the step's ghost
    batches on all ranks. As in torch, a layer's statistics move if it was called in train mode: layers in
    eval mode and layers that were not called keep theirs.

    `start` after the step's last forward pass sends one flat tensor on its way (2 numbers per channel), so
    that it travels during the backward pass; `finish` applies it. Both are called by the engines; a plain
    loop on one process calls them in a row. Collective: every rank calls the same layers in the same mode.
    """

    def __init__(self, model: nn.Module):
        self.layers = [module for module in model.modules() if isinstance(module, GhostBatchNorm)]
        self.keep_finite = False
        """Whether a step's average that holds NaN or Inf is left out."""
        self._moving: list[GhostBatchNorm] = []
        self._flat: Tensor | None = None
        self._work: dist.Work | None = None

    def start(self) -> None:
        self._moving = [layer for layer in self.layers if layer.ghosts_seen]
        if not self._moving:
            return
        self._flat = torch.cat(self._step_statistics())
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._work = dist.all_reduce(self._flat, async_op=True)

    @torch.no_grad()
    def finish(self) -> None:
        """Running statistics <- (1 - momentum) running + momentum average; nothing if no forward pass was
        made.
        """
        if self._flat is None:
            return
        if self._work is not None:
            self._work.wait()
            self._flat.div_(dist.get_world_size())
        self._move(self._flat)
        torch._foreach_add_([cast(Tensor, layer.num_batches_tracked) for layer in self._moving], 1)
        if self._moving[0].compiled:
            torch._foreach_zero_([layer.step_ghosts for layer in self._moving])
        for layer in self._moving:
            layer.ghosts_seen = 0
        self._flat = self._work = None

    def _move(self, average: Tensor) -> None:
        sizes = [layer.num_features for layer in self._moving for _ in range(2)]
        momenta = [cast(float, layer.momentum) for layer in self._moving for _ in range(2)]
        running = [
            cast(Tensor, stat) for layer in self._moving for stat in (layer.running_mean, layer.running_var)
        ]
        if self.keep_finite:
            average = torch.where(average.isfinite().all(), average, torch.cat(running))
            # The next step's first ghost batch enters with weight 1, and 0 times NaN would stay.
            torch._foreach_zero_(self._step_statistics())
        torch._foreach_mul_(running, [1 - momentum for momentum in momenta])
        torch._foreach_add_(running, list(torch._foreach_mul(average.split(sizes), momenta)))

    def _step_statistics(self) -> list[Tensor]:
        return [stat for layer in self._moving for stat in (layer.step_mean, layer.step_var)]
