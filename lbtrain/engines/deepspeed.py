"""DeepSpeed as an engine, ZeRO stages 0 to 3.

Four things are done here because DeepSpeed does them otherwise (seen with 0.19.8; tests hold each):

- at stage 0 it exchanges gradients in one go after the backward pass; inside, torch's DistributedDataParallel
  overlaps them;
- its accumulation window misaligns when its length changes; the window is ours, DeepSpeed sees only its last
  pass as the boundary;
- its checkpoints load only at the same stage and world size; `save` gathers full named tensors instead;
- for fp16 under ZeRO it takes torch's GradScaler, which it does not ask after an overflow (the scale never
  falls: no update is made any more), and clips gradients that are still scaled. The loss scale is ours there.
"""

import logging
import os
from typing import Any

import torch
from torch import Tensor, nn

from lbtrain import optim
from lbtrain.engines.ddp import exchange_in_backward, load_loss_scale, loss_scale_of, overlapped
from lbtrain.engines.deepspeed_config import complete_config
from lbtrain.engines.loss_scale import NO_SCALING, LossScale
from lbtrain.engines.protocol import EngineState, load_named_optimizer_state, named_optimizer_state
from lbtrain.engines.window import WindowedEngine
from lbtrain.plan.plan import Plan


class DeepSpeedEngine(WindowedEngine):
    """See `Engine`."""

    def __init__(self, plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device):
        deepspeed = import_deepspeed(device)
        super().__init__(model, optimizer, device)
        self.stage = plan.zero_stage
        self._skip_nonfinite(plan)
        self.inner = optimizer
        config = complete_config(plan, plan.recipe.deepspeed.config)
        parts = deepspeed.initialize(
            model=self.module, optimizer=optimizer, config=config, dist_init_required=False
        )
        self.engine, self.optimizer = parts[:2]
        self.engine.enable_backward_allreduce = self.stage > 0
        if self.stage == 0:
            # Only now: the broadcast in `initialize` knows no other order than the usual one.
            self._order_in_memory(plan)
            self.engine.module = overlapped(self.module)
            # At the end of a step; the window forgets them after the next forward pass.
            self.engine.zero_grad = lambda: None
        else:
            optim.deepspeed_shards(self.engine).bind(optimizer)
        self.scaling = _LossScaling() if self.stage and plan.recipe.precision == "fp16" else None
        if self.scaling:
            zero = parts[1]
            zero.torch_autocast_gradscaler, zero.loss_scaler, zero.dynamic_loss_scale = (
                None,
                self.scaling,
                True,
            )
        self.model = self.engine
        self.accumulation = plan.split.accumulation

    def _announce(self, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        exchange_in_backward(self.engine.module, last)

    def _forget_gradients(self) -> None:
        if self.stage == 0:
            self.inner.zero_grad()

    def _backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)
        if self._backwards < self._accumulation:
            # Between the passes of a window DeepSpeed wants a step call as well: it moves its counters and,
            # off the boundary, nothing else.
            self.engine.step()

    def _update(self) -> bool:
        scale = self.loss_scale
        self.engine.step()
        applied = bool(self.engine.was_step_applied())
        if self.scaling:
            self.scaling.move(overflowed=not applied)
        return applied and self.loss_scale >= scale

    @property
    def loss_scale(self) -> float:
        if self.scaling:
            return self.scaling.scale
        return float(self._grad_scaler.get_scale()) if self._grad_scaler else 1.0

    def _loss_scale_state(self) -> dict[str, Any]:
        if self.scaling:
            return self.scaling.state()
        return loss_scale_of(self._grad_scaler) if self._grad_scaler else NO_SCALING

    @property
    def _grad_scaler(self) -> torch.amp.GradScaler | None:
        """Of fp16 at stage 0."""
        return self.engine.torch_autocast_z0_gradscaler

    def shards(self) -> optim.Shards | None:
        return optim.deepspeed_shards(self.engine) if self.stage else None

    def clipped_by(self) -> float:
        clip_norm = self.engine.gradient_clipping()
        if not (self.stage and clip_norm):
            return 1.0
        return max(1.0, (float(self.engine.optimizer._global_grad_norm) + 1e-6) / clip_norm)

    def save(self) -> EngineState | None:
        if self.stage:
            model, states = optim.deepspeed_shards(self.engine).gather(self.inner)
        else:
            model, states = self.module.state_dict(), named_optimizer_state(self.module, self.inner)
        if self.rank:
            return None
        self._forget_gradients()  # the update is done, and the copy takes their memory
        gathered = bool(self.stage)  # those are copies already, on the CPU
        return {
            "model": {name: tensor.to("cpu", copy=not gathered) for name, tensor in model.items()},
            "optimizer": states,
            **self._loss_scale_state(),
        }

    def load(self, state: EngineState) -> None:
        if self.scaling:
            self.scaling.load(state)
        if self.stage:
            optim.deepspeed_shards(self.engine).scatter(self.inner, state["model"], state["optimizer"])
            return
        self.module.load_state_dict(state["model"])
        load_named_optimizer_state(self.module, self.inner, state["optimizer"])
        if self._grad_scaler:
            load_loss_scale(self._grad_scaler, state)


class _LossScaling(LossScale):
    """As DeepSpeed's ZeRO optimizers ask for it. They divide by the scale after `update_scale`: it moves when
    the step is over.
    """

    dynamic = True

    @property
    def cur_scale(self) -> float:
        return self.scale

    def scale_loss(self, loss: Tensor) -> Tensor:
        return loss * self.scale

    def update_scale(self, overflow: bool) -> None:
        """Nothing to do yet."""


def import_deepspeed(device: torch.device):  # type: ignore[no-untyped-def]
    """The package, as in a process that it has not been used in, for exchanges of tensors on `device`."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # It insists on this, also in a process that no launcher has started.
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed
    from deepspeed.runtime import torch_autocast

    # It keeps in its module that a run before this one in the same process was under autocast, and would
    # reduce in that precision.
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    # On a CPU its first start would compile, for minutes, an operation that the gradient exchange does not
    # use.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed
