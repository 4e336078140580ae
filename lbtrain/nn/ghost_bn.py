"""Ghost batch norm: statistics over a fixed number of images, whatever the batch, the micro-batch or the
number of ranks.

Source: Hoffer et al. 2017, "Train longer, generalize better", section 4 and algorithm 1; Goyal et al. 2017,
section 2.3 and remark 3 call the same number the per-worker minibatch n and keep it fixed because it is part
of the loss.

Two things go beyond the papers, so that a run does not depend on its batch split:

- the running statistics move once per optimizer step, by the average over all ghost batches of that step on
  all ranks (`GhostStatistics`), not once per forward pass by the local ones. Algorithm 1 moves them once a
  ghost batch; a momentum of 1 - (1 - m) ** k moves them as far as its k updates by m (`bn_update=ghost_batch`
  in a recipe), only that its last ghost batches weigh more and here all k weigh alike, in whatever order;
- a ghost batch larger than a rank's micro-batch spans several ranks, which then exchange their sums
  (synchronised batch norm).

Cost: a micro-batch of one ghost batch is one `F.batch_norm` call, as in plain batch norm. More ghost batches
are as many calls and one copy of the activations (on a GPU, where they are many: one call and two copies). A
ghost batch over several ranks adds one small exchange in forward and one in backward per layer.
Limits: a ghost batch must hold a whole number of micro-batches or the other way round; recomputing the
forward pass (activation checkpointing) would count a ghost batch twice.
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lbtrain.nn.sync_normalise import SyncNormalise

_SEPARATE_GHOSTS = 4
"""Ghost batches per micro-batch up to which a GPU gets one call each. Beyond, starting the calls would take
longer than their work.
"""

STEP_BUFFERS = ("step_mean", "step_var", "step_ghosts")
"""Of the step under way, on this rank; `GhostStatistics` brings them together."""


class GhostBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over chunks of `ghost_size` images in training, plain batch norm in evaluation. Same
    state-dict keys as batch norm.
    """

    ghost_size: int
    group: dist.ProcessGroup | None
    compiled: bool
    ghosts_seen: int
    """Ghost batches of this step so far; under torch.compile 1 if there was any, and `step_ghosts` counts."""
    step_mean: Tensor
    step_var: Tensor
    step_ghosts: Tensor

    def __init__(self, num_features: int, ghost_size: int, **kwargs: Any):
        super().__init__(num_features, **kwargs)
        self.become_ghost(ghost_size, None)

    def become_ghost(
        self, ghost_size: int, group: dist.ProcessGroup | None, *, compiled: bool = False
    ) -> None:
        """Add to a batch-norm layer what its ghost form needs. Raises ValueError for a layer without running
        statistics or momentum.
        """
        if self.running_mean is None:
            raise ValueError(
                "ghost batch norm keeps running statistics: build the layer with track_running_stats=True"
            )
        if self.momentum is None:
            raise ValueError(
                "ghost batch norm averages its statistics exponentially: build the layer with a momentum, "
                "such as 0.1"
            )
        self.ghost_size, self.group, self.compiled = ghost_size, group, compiled
        self.ghosts_seen = 0
        self.register_buffer("step_mean", torch.zeros_like(self.running_mean), persistent=False)
        self.register_buffer("step_var", torch.zeros_like(self.running_mean), persistent=False)
        self.register_buffer("step_ghosts", self.running_mean.new_zeros(()), persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "GhostBatchNorm":
        """The copy's ghost batches span the same ranks: a process group cannot be copied."""
        copied = memo[id(self)] = type(self).__new__(type(self))
        memo[id(self.group)] = self.group
        copied.__setstate__(copy.deepcopy(self.__dict__, memo))
        return copied

    def forward(self, x: Tensor) -> Tensor:
        """x: (images, channels, ...); in training the images are a whole number of ghost batches, or this
        rank's share of one.
        """
        self._check_input_dim(x)
        return self.normalise(x)

    def normalise(self, x: Tensor) -> Tensor:
        """`forward` without what a kind of batch norm adds to it, such as an activation."""
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if self.group is not None:
            return self._normalise_over_ranks(x)
        if x.shape[0] % self.ghost_size:
            raise ValueError(
                f"a micro-batch of {x.shape[0]} images holds no whole number of ghost batches of "
                f"{self.ghost_size}"
            )
        if self.compiled:
            return self._normalise_in_graph(x)
        if x.shape[0] == self.ghost_size:
            return self._normalise_ghost(x)
        if self._wants_one_call(x):
            return self._normalise_together(x)
        return torch.cat([self._normalise_ghost(ghost) for ghost in x.split(self.ghost_size)])

    def _normalise_ghost(self, x: Tensor) -> Tensor:
        # A momentum of 1/k makes the step's buffers the plain average over the k ghost batches seen in this
        # step.
        self.ghosts_seen += 1
        return F.batch_norm(
            x, self.step_mean, self.step_var, self.weight, self.bias, True, 1 / self.ghosts_seen, self.eps
        )

    def _wants_one_call(self, x: Tensor) -> bool:
        return x.is_cuda and x.shape[0] > _SEPARATE_GHOSTS * self.ghost_size

    def _normalise_together(self, x: Tensor) -> Tensor:
        """All ghost batches in one call, as if each had channels of its own."""
        ghosts = x.shape[0] // self.ghost_size
        side_by_side = torch.cat(x.split(self.ghost_size), dim=1)  # channels last, where x is
        mean, var = (torch.zeros_like(stat).repeat(ghosts) for stat in (self.step_mean, self.step_var))
        weight, bias = (
            None if affine is None else affine.repeat(ghosts) for affine in (self.weight, self.bias)
        )
        normalised = F.batch_norm(side_by_side, mean, var, weight, bias, True, 1.0, self.eps)
        self.ghosts_seen += ghosts
        with torch.no_grad():
            self.step_mean.lerp_(mean.view(ghosts, -1).mean(0), ghosts / self.ghosts_seen)
            self.step_var.lerp_(var.view(ghosts, -1).mean(0), ghosts / self.ghosts_seen)
        return torch.cat(normalised.split(x.shape[1], dim=1))

    def _normalise_in_graph(self, x: Tensor) -> Tensor:
        """All ghost batches by elementary operations, which a compiler fuses with their neighbours. Nothing
        that changes from step to step is a Python number here: each value would be compiled anew.
        """
        ghosts = x.unflatten(0, (-1, self.ghost_size)).to(torch.promote_types(x.dtype, torch.float32))
        dims = [1, *range(3, ghosts.dim())]
        var, mean = torch.var_mean(ghosts, dims, correction=0, keepdim=True)
        normalised = ((ghosts - mean) * (var + self.eps).rsqrt()).flatten(0, 1)
        self.ghosts_seen = 1
        images = ghosts[0, :, 0].numel()
        with torch.no_grad():
            self.step_ghosts.add_(ghosts.shape[0])
            weight = ghosts.shape[0] / self.step_ghosts
            unbiased = var.mean(0).flatten() * (images / max(1, images - 1))
            self.step_mean.lerp_(mean.mean(0).flatten().to(weight.dtype), weight)
            self.step_var.lerp_(unbiased.to(weight.dtype), weight)
        return self._affine(normalised).to(x.dtype)

    def _normalise_over_ranks(self, x: Tensor) -> Tensor:
        self.ghosts_seen += 1
        normalised, mean, var = SyncNormalise.apply(x, self.eps, self.group)
        images = x.numel() // x.shape[1] * dist.get_world_size(self.group)
        with torch.no_grad():
            self.step_mean.lerp_(mean, 1 / self.ghosts_seen)
            self.step_var.lerp_(var * (images / max(1, images - 1)), 1 / self.ghosts_seen)
        return self._affine(normalised)

    def _affine(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return x
        shape = (1, -1, *[1] * (x.dim() - 2))
        return x * self.weight.view(shape).to(x.dtype) + self.bias.view(shape).to(x.dtype)


class GhostBatchNorm1d(GhostBatchNorm, nn.BatchNorm1d):
    pass


class GhostBatchNorm2d(GhostBatchNorm, nn.BatchNorm2d):
    pass
