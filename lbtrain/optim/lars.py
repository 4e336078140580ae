"""LARS (You, Gitman, Ginsburg 2017, "Large Batch Training of Convolutional Networks", arXiv:1708.03888) and
its published variants.
"""

from typing import Any

import torch
from torch import Tensor

from .layerwise import Job, LayerwiseOptimizer, require, settle
from .layout import Slice
from .norms import lie_alike


class LARS(LayerwiseOptimizer):
    r"""SGD with momentum whose rate is set for each layer by the norms of its weights and its gradient.

    With w weights, g gradient, wd weight decay, m momentum, for each layer l (algorithm 1 and eq. 6):

        ratio_l = trust_coefficient * |w_l| / (|g_l| + wd * |w_l| + eps)

    momentum_scaling="lr_and_trust_ratio" (the paper's algorithm 1): the rate is part of the buffer, so a
    change of rate reaches the buffer slowly

        v <- m * v + lr * ratio_l * (g + wd * w)        w <- w - v
        nesterov:                                       w <- w - (m * v + lr * ratio_l * (g + wd * w))

    momentum_scaling="trust_ratio" (torch's SGD, apex, timm): the same at a constant rate; when the rate
    changes it equals the inside form with Goyal et al.'s momentum correction (2017, remark 2: v scaled by
    lr_new / lr_old)

        u <- m * u + ratio_l * (g + wd * w)             w <- w - lr * u
        nesterov:                                       w <- w - lr * (m * u + ratio_l * (g + wd * w))

    momentum_scaling="none" (NUS-HPC-AI-Lab/LARS-ImageNet-PyTorch, ColossalAI): rate and ratio of the current
    step scale the whole buffer, gradients of earlier steps included

        v <- m * v + g + wd * w                         w <- w - lr * ratio_l * v
        nesterov:                                       w <- w - lr * ratio_l * (m * v + g + wd * w)

    trust_clip=c (NUS-HPC-AI-Lab, ColossalAI: 50): ratio_l <- min(ratio_l, c). 0: none.
    clip_value=c (NUS-HPC-AI-Lab, ColossalAI: 10): every element of g + wd * w is limited to [-c, c]; the
    norms are those of g before it. 0: none.
    larc_clip (LARC, NVIDIA apex's apex.parallel.LARC): ratio_l <- min(ratio_l / lr, 1), no layer steps at
    more than lr.

    Groups with "use_trust_ratio" false take ratio 1: SGD with momentum. What happens at w=0, g=0, wd=0 and
    lr=0 stands in layerwise.py. The published eps is 0; the default keeps a vanishing gradient from a
    division by zero. State: `momentum_buffer`. Cost on CPU: one read of w and g, then one fused pass (w, g, v
    read; w, v written); Nesterov's form takes two.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        nesterov: bool = False,
        momentum_scaling: str = "lr_and_trust_ratio",
        trust_clip: float = 0.0,
        larc_clip: bool = False,
        clip_value: float = 0.0,
    ):
        require("lr", float(lr), at_least=0)
        require("momentum", momentum, at_least=0, below=1)
        require("weight_decay", weight_decay, at_least=0)
        require("trust_coefficient", trust_coefficient, at_least=0, strictly=True)
        require("eps", eps, at_least=0)
        require("trust_clip", trust_clip, at_least=0)
        require("clip_value", clip_value, at_least=0)
        if momentum_scaling not in ("lr_and_trust_ratio", "trust_ratio", "none"):
            raise ValueError(
                f"momentum_scaling={momentum_scaling!r} is not known; use 'lr_and_trust_ratio' (You et al.), "
                "'trust_ratio' (torch's SGD) or 'none' (NUS-HPC-AI-Lab)"
            )
        if nesterov and momentum == 0:
            raise ValueError(
                "nesterov=True with momentum=0 has no effect; give a momentum above 0 or leave nesterov out"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "nesterov": nesterov,
            "momentum_scaling": momentum_scaling,
            "trust_clip": trust_clip,
            "larc_clip": larc_clip,
            "clip_value": clip_value,
        }
        super().__init__(params, defaults)

    def _fill_state(self, state: dict[str, Tensor], parameter: Tensor, group: dict[str, Any]) -> None:
        if group["momentum"] and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)

    def _direct(self, job: Job) -> None:
        job.directions = job.gradients

    def _measured(self, job: Job) -> tuple[list[Tensor], ...]:
        return job.weights, job.gradients

    def _ratios(self, group: dict[str, Any], squares: Tensor) -> Tensor:
        weights, gradients = squares.sqrt().unbind(1)
        ratios = torch.ones_like(weights)
        if group["use_trust_ratio"]:
            ratios = (
                group["trust_coefficient"]
                * weights
                / (gradients + group["weight_decay"] * weights + group["eps"])
            )
            if group["trust_clip"]:
                ratios = ratios.clamp(max=group["trust_clip"])
            if group["larc_clip"]:
                ratios = (ratios / group["lr"]).clamp(max=1.0)
        return settle(ratios, weights, gradients)

    def _apply(self, job: Job, ratios: Tensor) -> None:
        gains, rates = _gains_and_rates(job.group, ratios)
        if _fusable(job, gains * rates):
            _fused_step(job, gains, rates)
        else:
            _foreach_step(job, gains, rates)


def _gains_and_rates(group: dict[str, Any], ratios: Tensor) -> tuple[Tensor, Any]:
    """What scales g + wd * w before it enters the buffer, and what scales the buffer; the second is one
    number or [layers].
    """
    scaling, lr = group["momentum_scaling"], group["lr"]
    if group["momentum"] and scaling == "lr_and_trust_ratio":
        return ratios * lr, 1.0
    if group["momentum"] and scaling == "none":
        # Nothing is added for a layer without gradient.
        return (ratios != 0).to(ratios.dtype), ratios * lr
    return ratios, lr


def _fusable(job: Job, steps: Tensor) -> bool:
    if job.slices[0].weight.device.type != "cpu" or job.group["clip_value"]:
        return False
    # Nesterov's form on the fused kernel divides by 1 - decay.
    decay = float(steps.max()) * job.group["weight_decay"]
    return decay < 0.5 and all(
        lie_alike(part.weight, part.gradient, *part.state.values()) for part in job.slices
    )


def _fused_step(job: Job, gains: Tensor, rates: Any) -> None:
    """Step with torch's fused SGD kernel: d = gain * (g + wd * w); buffer <- momentum * buffer + d; w <- w -
    rate * buffer.

    Nesterov's step, rate * (d + momentum * buffer), is two such calls, w' <- w - rate * d and w' - rate *
    momentum * buffer. The second sees w' in place of w, and with k = rate * gain, g + wd * w = (g + wd * w')
    / (1 - k * wd): that goes into its gain.
    """
    momentum, weight_decay = job.group["momentum"], job.group["weight_decay"]
    each = torch.as_tensor(rates, dtype=gains.dtype).expand_as(gains).tolist()
    for part, gain, rate in zip(job.slices, gains.tolist(), each, strict=True):
        if not part.weight.numel():  # another rank's
            continue
        if not momentum:
            _fused_sgd(part, weight_decay, rate * gain)
        elif job.group["nesterov"]:
            _fused_sgd(part, weight_decay, rate * gain)
            _fused_sgd(
                part,
                weight_decay,
                rate * momentum,
                momentum=momentum,
                gain=gain / (1 - rate * gain * weight_decay),
            )
        else:
            _fused_sgd(part, weight_decay, rate, momentum=momentum, gain=gain)


def _fused_sgd(
    part: Slice, weight_decay: float, lr: float, *, momentum: float = 0.0, gain: float = 1.0
) -> None:
    # The kernel's dampening d scales what enters the buffer by 1 - d.
    torch._fused_sgd_(
        [part.weight], [part.gradient], [part.state["momentum_buffer"]] if momentum else [],
        weight_decay=weight_decay, momentum=momentum, lr=lr, dampening=1.0 - gain, nesterov=False,
        maximize=False, is_first_step=False,
    )  # fmt: skip


def _foreach_step(job: Job, gains: Tensor, rates: Any) -> None:
    """Do the same with a few kernels for all layers together, Nesterov's form included; nothing is read back
    from the device.
    """
    momentum, weights, dtype = job.group["momentum"], job.weights, job.weights[0].dtype
    updates = list(torch._foreach_mul(_decayed(job), gains.to(dtype).unbind()))
    if momentum:
        buffers = job.states("momentum_buffer")
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, updates)
        updates = (
            list(torch._foreach_add(updates, buffers, alpha=momentum)) if job.group["nesterov"] else buffers
        )
    if isinstance(rates, Tensor):
        scales = rates.to(dtype).unbind() if rates.dim() else rates
        torch._foreach_sub_(weights, torch._foreach_mul(updates, scales))
    else:
        torch._foreach_add_(weights, updates, alpha=-rates)


def _decayed(job: Job) -> list[Tensor]:
    """g + wd * w of every layer, each element within the bound."""
    weight_decay, bound = job.group["weight_decay"], job.group["clip_value"]
    decayed = job.gradients
    if weight_decay:
        decayed = list(torch._foreach_add(decayed, job.weights, alpha=weight_decay))
    if bound:
        decayed = list(torch._foreach_clamp_max(torch._foreach_clamp_min(decayed, -bound), bound))
    return decayed
