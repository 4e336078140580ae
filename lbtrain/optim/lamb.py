"""LAMB (You et al. 2019, "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
arXiv:1904.00962) and variants.
"""

from typing import Any

import torch
from torch import Tensor

from .layerwise import Job, LayerwiseOptimizer, require, settle
from .norms import lie_alike


class LAMB(LayerwiseOptimizer):
    r"""Adam's direction, decoupled weight decay, and a step for each layer in proportion to the norm of its
    weights.

    With w weights, g gradient, wd weight decay, b1 and b2 = betas, t steps taken, for each layer l (algorithm
    2):

        a <- b1 * a + (1 - b1) * g                      c <- b2 * c + (1 - b2) * g^2
        a' = a / (1 - b1^t)                             c' = c / (1 - b2^t)
        u  = a' / (sqrt(c') + eps) + wd * w
        w <- w - lr * ratio_l * u                       ratio_l = phi(|w_l|) / |u_l|,  phi the identity

    bias_correction=False: a' = a, c' = c (a first step of (1 - b1) / sqrt(1 - b2) times the corrected
    direction). trust_clip=k (timm's LAMBC: 1): ratio_l <- min(ratio_l, k). 0: none.

    Groups with "use_trust_ratio" false take ratio 1: Adam with decoupled weight decay. The global gradient
    norm is not clipped here (NVIDIA's FusedLAMB and timm's Lamb do, to 1 by default): clipping is the
    engine's. The step count is the group's: under ZeRO a group has one, so that a parameter which gets its
    first gradient late has the group's count too. What happens at w=0, g=0, wd=0 and lr=0 stands in
    layerwise.py. State: `step`, `exp_avg`, `exp_avg_sq`. Cost on CPU: one fused pass, one read for the norms,
    one pass over w and u; a scratch of one round of layers (of the whole slice under sharding) holds u in
    between.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        trust_clip: float = 0.0,
    ):
        require("lr", float(lr), at_least=0)
        require("betas[0]", betas[0], at_least=0, below=1)
        require("betas[1]", betas[1], at_least=0, below=1)
        require("eps", eps, at_least=0, strictly=True)
        require("weight_decay", weight_decay, at_least=0)
        require("trust_clip", trust_clip, at_least=0)
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "trust_clip": trust_clip,
        }
        super().__init__(params, defaults)

    def _fill_state(self, state: dict[str, Tensor], parameter: Tensor, group: dict[str, Any]) -> None:
        if "exp_avg" not in state:
            counts = [
                self.state[other]["step"] for other in group["params"] if "step" in self.state.get(other, {})
            ]
            state["step"] = (
                counts[0].clone() if counts else torch.zeros((), dtype=torch.float32, device=parameter.device)
            )
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)

    def _advance(self, job: Job) -> None:
        # Slices of one flat tensor share its count.
        torch._foreach_add_(list({id(count): count for count in job.states("step")}.values()), 1.0)

    def _direct(self, job: Job) -> None:
        parts = job.slices
        if parts[0].weight.device.type == "cpu" and all(
            _fusable(part.weight, part.gradient, *_moments(part.state)) for part in parts
        ):
            job.directions = self._scratch_like(job)
            _fused_directions(job)
        else:
            job.directions = _foreach_directions(job)

    def _scratch_like(self, job: Job) -> list[Tensor]:
        weights, sizes = job.weights, [weight.numel() for weight in job.weights]
        # Whole layers are done with when the next round begins; the groups of a sharded round need theirs at
        # one time.
        key = (weights[0].dtype, id(job.group) if job.sharded else 0)
        kept = self._scratch.get(key)
        if kept is None or kept.numel() < sum(sizes):
            kept = self._scratch[key] = torch.empty(sum(sizes), dtype=weights[0].dtype)
        outs = kept[: sum(sizes)].split(sizes)
        return [
            out.as_strided(w.shape, w.stride(), out.storage_offset())
            for out, w in zip(outs, weights, strict=True)
        ]

    def _measured(self, job: Job) -> tuple[list[Tensor], ...]:
        return job.weights, job.directions, job.gradients

    def _ratios(self, group: dict[str, Any], squares: Tensor) -> Tensor:
        weights, directions, gradients = squares.sqrt().unbind(1)
        ratios = torch.ones_like(weights)
        if group["use_trust_ratio"]:
            ratios = torch.where(directions == 0, 1.0, weights / directions)
            if group["trust_clip"]:
                ratios = ratios.clamp(max=group["trust_clip"])
        return settle(ratios, weights, gradients)

    def _apply(self, job: Job, ratios: Tensor) -> None:
        lr = job.group["lr"]
        if job.slices[0].weight.device.type == "cpu":
            for weight, direction, ratio in zip(job.weights, job.directions, ratios.tolist(), strict=True):
                weight.add_(direction, alpha=-float(lr) * ratio)
        else:
            rates = (ratios * -lr).to(job.weights[0].dtype)
            torch._foreach_addcmul_(job.weights, job.directions, list(rates.unbind()))


def _moments(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return state["exp_avg"], state["exp_avg_sq"]


def _fusable(*tensors: Tensor) -> bool:
    return tensors[0].dtype.itemsize >= 4 and lie_alike(*tensors)


def _fused_directions(job: Job) -> None:
    """Compute u with torch's fused Adam kernel, one call a layer.

    The kernel steps "weights" against the direction: from 0, at rate -1 and without decay, it leaves a' /
    (sqrt(c') + eps).
    """
    beta1, beta2 = job.group["betas"]
    weight_decay = job.group["weight_decay"]
    # b^inf = 0: nothing to correct
    step = job.slices[0].state["step"] if job.group["bias_correction"] else torch.tensor(float("inf"))
    for part, direction in zip(job.slices, job.directions, strict=True):
        if not direction.numel():  # another rank's
            continue
        torch._fused_adam_(
            [direction.zero_()], [part.gradient], [part.state["exp_avg"]], [part.state["exp_avg_sq"]], [],
            [step], lr=-1.0, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=job.group["eps"], amsgrad=False,
            maximize=False,
        )  # fmt: skip
        if weight_decay:
            direction.add_(part.weight, alpha=weight_decay)


def _foreach_directions(job: Job) -> list[Tensor]:
    """Compute u with a few kernels for all layers together; the step count stays on the device."""
    beta1, beta2 = job.group["betas"]
    gradients, a, c = job.gradients, job.states("exp_avg"), job.states("exp_avg_sq")
    # In single precision 1 - 0.999 is off by 5e-5.
    step = job.slices[0].state["step"].to(gradients[0].device, torch.float64)
    k1, k2 = (
        torch.as_tensor(k, dtype=gradients[0].dtype, device=step.device)
        for k in _corrections(job.group, step)
    )
    torch._foreach_lerp_(a, gradients, 1 - beta1)
    torch._foreach_mul_(c, beta2)
    torch._foreach_addcmul_(c, gradients, gradients, value=1 - beta2)
    roots = torch._foreach_sqrt(c)
    torch._foreach_div_(roots, k2)
    torch._foreach_add_(roots, job.group["eps"])
    directions = torch._foreach_div(a, k1)
    torch._foreach_div_(directions, roots)
    if job.group["weight_decay"]:
        torch._foreach_add_(directions, job.weights, alpha=job.group["weight_decay"])
    return list(directions)


def _corrections(group: dict[str, Any], step: Any) -> tuple[Any, Any]:
    if not group["bias_correction"]:
        return 1.0, 1.0
    beta1, beta2 = group["betas"]
    return 1 - beta1**step, (1 - beta2**step) ** 0.5
