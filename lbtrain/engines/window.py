"""The accumulation window: what every engine does alike between one update and the next."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lbtrain.errors import RecipeError
from lbtrain.nn import GhostStatistics
from lbtrain.optim import Shards, gradient_norms
from lbtrain.plan.plan import Plan
from lbtrain.plan.statistics import reached_parameters


class WindowedEngine:
    """The part of `Engine` that does not depend on a library. A subclass says how to do the four things at
    the end.
    """

    skips_nonfinite = False

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device):
        self.rank, self.world_size, self.device = dist.get_rank(), dist.get_world_size(), device
        self.module = module.to(device)
        self.optimizer = optimizer
        self.statistics = GhostStatistics(module)
        self._numbers = {name: id(each) for name, each in module.named_parameters()}
        self.trained = {name: each for name, each in module.named_parameters() if each.requires_grad}

    def _skip_nonfinite(self, plan: Plan) -> None:
        """Under fp16 the scaler skips such updates; under ZeRO DeepSpeed does, or the ColossalAI engine."""
        self.skips_nonfinite = (
            plan.recipe.skip_nonfinite > 0 and plan.recipe.precision != "fp16" and not plan.zero_stage
        )
        self.statistics.keep_finite = plan.recipe.skip_nonfinite > 0

    def _order_in_memory(self, plan: Plan) -> None:
        if plan.recipe.channels_last:
            self.module.to(memory_format=torch.channels_last)

    @property
    def accumulation(self) -> int:
        return self._accumulation

    @accumulation.setter
    def accumulation(self, count: int) -> None:
        self._accumulation = count
        self._open_window()

    def _open_window(self) -> None:
        self._backwards = 0
        self._announce(self._accumulation == 1)

    def backward(self, loss: Tensor) -> None:
        if not self._backwards:
            # Here, after the forward pass, and not at the end of the step: the new gradients then take the
            # memory of the old ones.
            self._forget_gradients()
        self._backwards += 1
        if self._backwards == self._accumulation:
            self.statistics.start()
        self._check_gradients(loss)
        self._backward(loss / self._accumulation)
        if self._backwards < self._accumulation:
            self._announce(self._backwards + 1 == self._accumulation)

    def step(self, lr: float) -> bool:
        assert self._backwards == self._accumulation, (
            f"a step is {self._accumulation} backward calls, not {self._backwards}"
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        applied = self._may_update() and self._update()
        self.statistics.finish()
        self._open_window()
        return applied

    def _check_gradients(self, loss: Tensor) -> None:
        """Raises RecipeError where the loss of this micro-step does not depend on a trained parameter, or
        depends on one that is left out: engines differ in what they make of it. ZeRO decays such a parameter,
        and plain data parallel leaves out its bucket. It is asked before the backward pass: a rank that lacks
        a gradient alone would not exchange what the others do.
        """
        reached = reached_parameters([loss])
        for name, number in self._numbers.items():
            if (number in reached) == (name in self.trained):
                continue
            what = "is used, though the plan's own forward pass did not use it and it is not trained"
            if name in self.trained:
                what = "got no gradient, and other steps or ranks train it"
            raise RecipeError(
                f"In this step on rank {self.rank} {name} {what}: use a model whose loss depends on the same "
                "parameters in every step and on every rank, or do not train this one "
                f"(model.freeze=[{name}])"
            )

    def shards(self) -> Shards | None:
        return None

    def clipped_by(self) -> float:
        return 1.0

    def mean(self, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(total)
            total /= self.world_size
        return total

    def _may_update(self) -> bool:
        """False where gradients are not finite and such an update is to be skipped. Asking waits for the
        device.
        """
        return not self.skips_nonfinite or bool(
            gradient_norms(self.module.named_parameters())[1].isfinite().all()
        )

    def _announce(self, last: bool) -> None:
        """Prepare for a micro-step that is, or is not, the last of the window: only the last exchanges
        gradients.
        """
        raise NotImplementedError

    def _forget_gradients(self) -> None:
        self.optimizer.zero_grad()

    def _backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, which is divided by the length of the window already."""
        raise NotImplementedError

    def _update(self) -> bool:
        """Clip and update; say whether the update was applied."""
        raise NotImplementedError
