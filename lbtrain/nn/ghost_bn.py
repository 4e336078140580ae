"""Ghost batch norm: statistics over a fixed number of images, whatever the batch, the micro-batch or the
number of ranks.

Source: Hoffer et al. 2017, "Train longer, generalize better", section 4 and algorithm 1; Goyal et al. 2017,
section 2.3 and remark 3 call the same number the per-worker minibatch n and keep it fixed because it is part
of the loss.

Two things go beyond the papers, so that a run does not depend on how it is cut:

- the running statistics move once per optimizer step, by the average over all ghost batches of that step on
  all ranks (`GhostStatistics`), not once per forward pass by the local ones;
- a ghost batch larger than a rank's micro-batch spans several ranks, which then exchange their sums
  (synchronised batch norm).

Cost: a micro-batch of one ghost batch is one `F.batch_norm` call, as in plain batch norm. More ghost batches
are as many calls and one copy of the activations (on a GPU, where they are many: one call and two copies). A
ghost batch over several ranks adds one small exchange in forward and one in backward per layer.
Limits: a ghost batch must hold a whole number of micro-batches or the other way round; recomputing the
forward pass (activation checkpointing) would count a ghost batch twice.
"""

import functools
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

_SEPARATE_GHOSTS = 4
"""Ghost batches per micro-batch up to which a GPU gets one call each. Beyond, starting the calls would take
longer than their work.
"""


class _GhostBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over chunks of `ghost_size` images in training, plain batch norm in evaluation. Same
    state-dict keys as batch norm.
    """

    ghost_size: int
    group: dist.ProcessGroup | None
    step_mean: Tensor
    step_var: Tensor

    def __init__(self, num_features: int, ghost_size: int, **kwargs: Any):
        super().__init__(num_features, **kwargs)
        self._as_ghost(ghost_size, None)

    def _as_ghost(self, ghost_size: int, group: dist.ProcessGroup | None) -> None:
        if self.running_mean is None:
            raise ValueError(
                "ghost batch norm keeps running statistics: build the layer with track_running_stats=True"
            )
        if self.momentum is None:
            raise ValueError(
                "ghost batch norm averages its statistics exponentially: build the layer with a momentum, "
                "such as 0.1"
            )
        self.ghost_size = ghost_size
        self.group = group
        self.ghosts_seen = 0
        self.register_buffer("step_mean", torch.zeros_like(self.running_mean), persistent=False)
        self.register_buffer("step_var", torch.zeros_like(self.running_mean), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (images, channels, ...); in training the images are a whole number of ghost batches, or this
        rank's share of one.
        """
        self._check_input_dim(x)
        return self._normalise(x)

    def _normalise(self, x: Tensor) -> Tensor:
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
        side_by_side = x.unflatten(0, (ghosts, self.ghost_size)).transpose(0, 1).flatten(1, 2)
        mean, var = (torch.zeros_like(stat).repeat(ghosts) for stat in (self.step_mean, self.step_var))
        weight, bias = (
            None if affine is None else affine.repeat(ghosts) for affine in (self.weight, self.bias)
        )
        normalised = F.batch_norm(side_by_side, mean, var, weight, bias, True, 1.0, self.eps)
        self.ghosts_seen += ghosts
        with torch.no_grad():
            self.step_mean.lerp_(mean.view(ghosts, -1).mean(0), ghosts / self.ghosts_seen)
            self.step_var.lerp_(var.view(ghosts, -1).mean(0), ghosts / self.ghosts_seen)
        return normalised.unflatten(1, (ghosts, -1)).transpose(0, 1).flatten(0, 1)

    def _normalise_over_ranks(self, x: Tensor) -> Tensor:
        self.ghosts_seen += 1
        normalised, mean, var = _SyncNormalise.apply(x, self.eps, self.group)
        images = x.numel() // x.shape[1] * dist.get_world_size(self.group)
        with torch.no_grad():
            self.step_mean.lerp_(mean, 1 / self.ghosts_seen)
            self.step_var.lerp_(var * (images / max(1, images - 1)), 1 / self.ghosts_seen)
        if self.weight is None:
            return normalised
        shape = (1, -1, *[1] * (x.dim() - 2))
        return normalised * self.weight.view(shape).to(x.dtype) + self.bias.view(shape).to(x.dtype)


class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    pass


class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    pass


class _SyncNormalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) with the statistics of all ranks of a group; every rank holds equally many
    images.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
        dims = [0, *range(2, x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        local_var, local_mean = torch.var_mean(wide, dims, correction=0)
        gathered = [
            torch.empty_like(local_mean.new_empty(2, len(local_mean)))
            for _ in range(dist.get_world_size(group))
        ]
        dist.all_gather(gathered, torch.stack([local_mean, local_var]), group)
        means, variances = torch.stack(gathered).unbind(1)
        mean = means.mean(0)
        # The law of total variance: no difference of large squares.
        var = variances.mean(0) + (means - mean).square().mean(0)
        shape = (1, -1, *[1] * (x.dim() - 2))
        inverse_std = (var + eps).rsqrt()
        normalised = (wide - mean.view(shape)) * inverse_std.view(shape)
        ctx.save_for_backward(normalised, inverse_std)
        ctx.group, ctx.shape, ctx.dims = group, shape, dims
        ctx.mark_non_differentiable(mean, var)
        return normalised.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        normalised, inverse_std = ctx.saved_tensors
        wide = grad.to(normalised.dtype)
        averages = torch.stack([wide.mean(ctx.dims), (wide * normalised).mean(ctx.dims)])
        dist.all_reduce(averages, group=ctx.group)
        mean_grad, mean_product = (averages / dist.get_world_size(ctx.group)).view(2, *ctx.shape).unbind(0)
        return (
            ((wide - mean_grad - normalised * mean_product) * inverse_std.view(ctx.shape)).to(grad.dtype),
            None,
            None,
        )


def convert_to_ghost_batch_norm(
    model: nn.Module, ghost_size: int, *, momentum: float | None = None, ranks_per_ghost: int = 1
) -> nn.Module:
    """Turn every batch-norm layer of `model` into its ghost form, in place; weights, buffers and state-dict
    keys stay.

    `momentum`: weight of a step's statistics in the running ones; None leaves each layer its own.
    `ranks_per_ghost` > 1: a ghost batch spans that many neighbouring ranks (collective: every rank must call
    this). Raises ValueError for a kind of batch norm whose forward pass this module does not know.
    """
    group = _ghost_group(ranks_per_ghost) if ranks_per_ghost > 1 else None
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = _ghost_class(type(module), name)
            module.momentum = module.momentum if momentum is None else momentum
            module._as_ghost(ghost_size, group)  # type: ignore[operator]
    return model


def regroup_ghost_batches(model: nn.Module, ranks_per_ghost: int) -> None:
    """Let a ghost batch span so many neighbouring ranks from the next step on, in a model that was converted.
    Collective, between steps.
    """
    group = _ghost_group(ranks_per_ghost) if ranks_per_ghost > 1 else None
    for module in model.modules():
        if isinstance(module, _GhostBatchNorm):
            module.group = group


@functools.cache
def _ghost_kinds() -> dict[type, type[_GhostBatchNorm]]:
    from timm.layers import BatchNormAct2d

    class GhostBatchNormAct2d(_GhostBatchNorm, BatchNormAct2d):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.drop(self._normalise(x)))

    return {
        nn.BatchNorm1d: GhostBatchNorm1d,
        nn.BatchNorm2d: GhostBatchNorm2d,
        BatchNormAct2d: GhostBatchNormAct2d,
    }


def _ghost_class(kind: type, name: str) -> type[_GhostBatchNorm]:
    known = _ghost_kinds()
    if kind not in known:
        raise ValueError(
            f"{name} is a {kind.__name__}: ghost batch norm knows "
            f"{', '.join(known_kind.__name__ for known_kind in known)}"
        )
    return known[kind]


def _ghost_group(ranks_per_ghost: int) -> Any:
    """This rank's group of neighbours. Every rank takes part in making every group."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    groups = [
        dist.new_group(list(range(first, first + ranks_per_ghost)))
        for first in range(0, world_size, ranks_per_ghost)
    ]
    return groups[rank // ranks_per_ghost]


class GhostStatistics:
    """Moves a model's running statistics once per optimizer step, by the average over the step's ghost
    batches on all ranks.

    `start` after the step's last forward pass sends one flat tensor on its way (2 numbers per channel), so
    that it travels during the backward pass; `finish` applies it. Both are called by the engines; a plain
    loop on one process calls them in a row.
    """

    def __init__(self, model: nn.Module):
        self.layers = [module for module in model.modules() if isinstance(module, _GhostBatchNorm)]
        self.keep_finite = False
        """Whether a step's average that holds NaN or Inf is left out."""
        self._flat: Tensor | None = None
        self._work: dist.Work | None = None

    def start(self) -> None:
        if not self.layers or not self.layers[0].ghosts_seen:
            return
        self._flat = torch.cat([stat for layer in self.layers for stat in (layer.step_mean, layer.step_var)])
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
        sizes = [layer.num_features for layer in self.layers for _ in range(2)]
        running = [
            cast(Tensor, stat) for layer in self.layers for stat in (layer.running_mean, layer.running_var)
        ]
        momenta = [cast(float, layer.momentum) for layer in self.layers for _ in range(2)]
        if self.keep_finite:
            self._flat = torch.where(self._flat.isfinite().all(), self._flat, torch.cat(running))
            # The next step's first ghost batch enters with weight 1, and 0 times NaN would stay.
            torch._foreach_zero_(
                [cast(Tensor, stat) for layer in self.layers for stat in (layer.step_mean, layer.step_var)]
            )
        torch._foreach_mul_(running, [1 - momentum for momentum in momenta])
        torch._foreach_add_(running, list(torch._foreach_mul(self._flat.split(sizes), momenta)))
        torch._foreach_add_([cast(Tensor, layer.num_batches_tracked) for layer in self.layers], 1)
        for layer in self.layers:
            layer.ghosts_seen = 0
        self._flat = self._work = None
