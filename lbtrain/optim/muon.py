"""Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") for matrices and
convolutions, right where they are sharded; AdamW (Loshchilov & Hutter 2019) for all other parameters.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.adamw import adamw

from .fused import choose_kernel
from .layerwise import Job, LayerwiseOptimizer, require
from .shared_work import SharedWork

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration of Jordan et al.; the same in every step."""
RATE_ADJUSTMENTS: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: max(1.0, rows / columns) ** 0.5,
    "match_rms_adamw": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
}
"""What an orthogonalised update is multiplied with, by the shape of its matrix; named as in torch.optim.Muon:
Jordan et al.'s, and that of Liu et al. 2025 ("Muon is scalable for LLM training", equation 4).
"""


class Muon(LayerwiseOptimizer):
    r"""Momentum whose update is orthogonalised for each matrix; AdamW for groups with "use_muon" false.

    A weight of shape [out, in, ...] is the matrix [out, in * ...]: one row for each output channel of a
    convolution. With W weights, G gradient, m momentum, wd weight decay:

        M <- m * M + (1 - m) * G                        (an exponential average, as in torch.optim.Muon)
        D  = m * M + (1 - m) * G if nesterov, else M
        O  = newton_schulz(D)                           singular values of D brought close to 1
        W <- (1 - lr * wd) * W - lr * adjustment(out, in * ...) * O

    Newton-Schulz starts from X = D / (|D| + 1e-7) with the smaller dimension first, and repeats
    X <- a X + (b A + c A^2) X with A = X X^T. It runs in the weights' own precision unless `dtype` names
    another (the published code uses bf16, in which a rounding of the last bit of G moves O by 1e-3: two runs
    that differ by rounding then drift apart).

    rate_adjustment: "original" (Jordan et al.), a factor of sqrt(max(1, out / in)), or "match_rms_adamw"
    (Liu et al. 2025), 0.2 * sqrt(max(out, in)), under which rates and weight decay of AdamW carry over.

    Each matrix is orthogonalised once, by one rank: under ZeRO and FSDP2 its parts travel to that rank and
    back in two all-to-all calls a group; where every rank holds whole layers and the same gradients (DDP),
    give their `process_group`, and the results are broadcast. A parameter without gradient counts as one with
    a gradient of zeros, since ZeRO turns the one into the other (torch.optim.Muon skips it).
    State: `momentum_buffer`; of AdamW `step`, `exp_avg`, `exp_avg_sq`.
    """

    process_group: dist.ProcessGroup | None = None  # a copy has none: a process group cannot be copied

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        newton_schulz_steps: int = 5,
        rate_adjustment: str = "original",
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        dtype: torch.dtype | None = None,
        process_group: dist.ProcessGroup | None = None,
    ):
        require("lr", float(lr), at_least=0)
        require("momentum", momentum, at_least=0, below=1)
        require("weight_decay", weight_decay, at_least=0)
        require("newton_schulz_steps", newton_schulz_steps, at_least=1)
        require("betas[0]", betas[0], at_least=0, below=1)
        require("betas[1]", betas[1], at_least=0, below=1)
        require("eps", eps, at_least=0, strictly=True)
        if rate_adjustment not in RATE_ADJUSTMENTS:
            known = " or ".join(RATE_ADJUSTMENTS)
            raise ValueError(f"rate_adjustment={rate_adjustment!r} is not known; use {known}")
        self.process_group = process_group
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "newton_schulz_steps": newton_schulz_steps,
            "rate_adjustment": rate_adjustment,
            "weight_decay": weight_decay,
            "betas": betas,
            "eps": eps,
            "dtype": dtype,
            "use_muon": True,
            "use_trust_ratio": False,
        }
        super().__init__(params, defaults)

    def _forget_last_step(self) -> None:
        super()._forget_last_step()
        self._work: dict[int, SharedWork] = {}

    def _register(self, group: dict[str, Any]) -> None:
        super()._register(group)
        for parameter in group["params"]:
            if group["use_muon"] and parameter.ndim < 2:
                raise ValueError(
                    f"a parameter of shape {tuple(parameter.shape)} is not a matrix: put it into a group "
                    "with use_muon=False"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step at each group's current `lr`. A collective call where the work is shared."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for index, group in enumerate(self.param_groups):
            if group["use_muon"]:
                self._step_matrices(Job(group, self._slices(group, index)), index)
            else:
                self._step_elements(group)
        return loss

    def _fill_state(self, state: dict[str, Tensor], parameter: Tensor, group: dict[str, Any]) -> None:
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)

    def _step_matrices(self, job: Job, index: int) -> None:
        if not job.slices:
            return
        group, buffers = job.group, job.states("momentum_buffer")
        torch._foreach_lerp_(buffers, job.gradients, 1 - group["momentum"])
        directions = buffers
        if group["nesterov"]:
            directions = list(torch._foreach_lerp(job.gradients, buffers, group["momentum"]))
        work = self._shared_work(job, index)
        updates = work.run(directions, lambda matrix: self._orthogonal(matrix, group))
        if group["weight_decay"]:
            torch._foreach_mul_(job.weights, 1 - float(group["lr"]) * group["weight_decay"])
        for weight, update in zip(job.weights, updates, strict=True):
            weight.add_(update.view_as(weight), alpha=-float(group["lr"]))

    def _shared_work(self, job: Job, index: int) -> SharedWork:
        work = self._work.get(index)
        if work is None or not work.fits(job.slices):
            work = self._work[index] = SharedWork(job.slices, self.process_group)
        return work

    def _orthogonal(self, direction: Tensor, group: dict[str, Any]) -> Tensor:
        """The update of one whole layer, in its shape."""
        matrix = direction.reshape(direction.shape[0], -1)
        update = newton_schulz(matrix, group["newton_schulz_steps"], dtype=group["dtype"])
        scale = RATE_ADJUSTMENTS[group["rate_adjustment"]](*matrix.shape)
        return (update * scale).view(direction.shape)

    def _step_elements(self, group: dict[str, Any]) -> None:
        """AdamW, in torch's own kernel: every element alone, so that flat tensors and slices need no care."""
        parameters = [p for p in group["params"] if p.grad is not None or p.requires_grad]
        for parameter in parameters:
            self.layout.check(parameter)
            state = self.state[parameter]
            if "exp_avg" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        if parameters:
            fused = choose_kernel(parameters, gradients, states)
            adamw(
                parameters, gradients, [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states], [], [state["step"] for state in states],
                amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=float(group["lr"]),
                weight_decay=group["weight_decay"], eps=group["eps"], maximize=False, fused=fused,
            )  # fmt: skip


def newton_schulz(matrix: Tensor, steps: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """`matrix` [rows, columns] with its singular values brought close to 1, in `dtype` (None: its own)."""
    a, b, c = QUINTIC
    x = matrix.to(dtype or matrix.dtype)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)
