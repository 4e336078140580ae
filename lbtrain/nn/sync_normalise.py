"""Normalisation by the statistics of a batch that lies on several ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class SyncNormalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) with the statistics of all ranks of a group; every rank holds equally many
    images.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
        dims = [0, *range(2, x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        local_var, local_mean = torch.var_mean(wide, dims, correction=0)
        gathered = [local_mean.new_empty(2, len(local_mean)) for _ in range(dist.get_world_size(group))]
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
