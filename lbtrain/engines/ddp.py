"""The readable oracle: plain torch, DistributedDataParallel where there are several ranks. Every other engine
must equal this one.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lbtrain.engines.loss_scale import NO_SCALING
from lbtrain.engines.protocol import EngineState, load_named_optimizer_state, named_optimizer_state
from lbtrain.engines.window import WindowedEngine
from lbtrain.plan.plan import Plan

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class DDPEngine(WindowedEngine):
    """See `Engine`. Ghost batches are converted already; GhostStatistics keeps the buffers equal on all
    ranks, not DDP's broadcast.
    """

    def __init__(self, plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device):
        super().__init__(model, optimizer, device)
        self._order_in_memory(plan)
        self.clip_norm = plan.recipe.optimizer.clip_norm
        self._skip_nonfinite(plan)
        self.scaler = torch.amp.GradScaler(device.type, enabled=plan.recipe.precision == "fp16")
        self.model = self._wrap(plan)
        self.accumulation = plan.split.accumulation

    def _wrap(self, plan: Plan) -> nn.Module:
        return overlapped(in_precision(self.module, plan))

    def _announce(self, last: bool) -> None:
        exchange_in_backward(self.model, last)

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def _update(self) -> bool:
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            self._clip()
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= scale

    @property
    def loss_scale(self) -> float:
        return float(self.scaler.get_scale())

    def _clip(self) -> None:
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm)

    def save(self) -> EngineState | None:
        if self.rank:
            return None
        self._forget_gradients()  # the update is done, and the copy takes their memory
        model = {name: tensor.to("cpu", copy=True) for name, tensor in self.module.state_dict().items()}
        return {
            "model": model,
            "optimizer": named_optimizer_state(self.module, self.optimizer),
            **loss_scale_of(self.scaler),
        }

    def load(self, state: EngineState) -> None:
        self.module.load_state_dict(state["model"])
        load_named_optimizer_state(self.module, self.optimizer, state["optimizer"])
        load_loss_scale(self.scaler, state)


def in_precision(module: nn.Module, plan: Plan) -> nn.Module:
    """`module` with its forward pass under autocast, where the plan says so; its weights stay fp32."""
    if plan.recipe.precision in AUTOCAST_DTYPES:
        autocast = autocast_of(plan.recipe.precision, next(module.parameters()).device)
        module.forward = autocast(module.forward)
    return module


def autocast_of(precision: str, device: torch.device) -> torch.autocast:
    """What a forward pass in this precision runs under; nothing for fp32."""
    dtype = AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def overlapped(module: nn.Module) -> nn.Module:
    """`module` with its gradients averaged over ranks while the backward pass still runs; as it is on one
    rank.
    """
    if dist.get_world_size() == 1:
        return module
    # Gradients that live in DDP's buckets spare a GPU memory and a copy; on a CPU they cost 3% (bench.train,
    # case ddp).
    on_gpu = next(module.parameters()).is_cuda
    return without_buffer_broadcast(DistributedDataParallel(module, gradient_as_bucket_view=on_gpu))


def without_buffer_broadcast(model: nn.Module) -> nn.Module:
    """Switches DDP's broadcast of buffers off, under the name that torch had for it before and after 2.13:
    GhostStatistics does it.
    """
    if isinstance(model, DistributedDataParallel):
        model.broadcast_buffers = False
    return model


def exchange_in_backward(model: nn.Module, exchange: bool) -> None:
    """Whether the next forward and backward pass exchanges gradients: the flag that DDP's `no_sync` sets."""
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = exchange


def loss_scale_of(scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """What the state of an engine holds of it."""
    if not scaler.is_enabled():
        return NO_SCALING
    state = scaler.state_dict()
    return {"loss_scale": state["scale"], "loss_scale_steps": state["_growth_tracker"]}


def load_loss_scale(scaler: torch.amp.GradScaler, state: EngineState) -> None:
    """Goes on from there; nothing where the precision needs none."""
    if scaler.is_enabled():
        scaler.load_state_dict(
            scaler.state_dict() | {"scale": state["loss_scale"], "_growth_tracker": state["loss_scale_steps"]}
        )
