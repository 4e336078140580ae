"""ColossalAI's Booster as an engine: TorchDDPPlugin (stage 0) and LowLevelZeroPlugin (ZeRO stages 1 and 2).

What is done here because ColossalAI does it otherwise (seen with 0.5.0; tests hold each):

- TorchDDPPlugin turns every batch norm into torch's SyncBatchNorm: another ghost batch, and no CPU. It finds
  none to turn;
- a plugin's mixed precision is a cast of the whole model, batch norm included, or (bf16 under TorchDDPPlugin)
  an empty class. The forward pass runs under autocast as in the other engines, and weights stay fp32;
- LowLevelZero gives an optimizer a part of every layer: LARS and LAMB are bound to these, `save` gathers full
  named tensors.

Gemini (its ZeRO-3) steps with its own Adams only, which no recipe asks for.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lbtrain import optim
from lbtrain.engines.ddp import DDPEngine, exchange_in_backward, in_precision
from lbtrain.engines.loss_scale import NO_SCALING, LossScale
from lbtrain.engines.protocol import EngineState
from lbtrain.engines.window import WindowedEngine
from lbtrain.plan.plan import Plan


class ColossalAIEngine(DDPEngine):
    """See `Engine`. Stage 0; what differs from the oracle is who wraps, sends backward and clips."""

    def _wrap(self, plan: Plan) -> nn.Module:
        plugins = _import_colossalai()
        plugin = plugins.TorchDDPPlugin(
            broadcast_buffers=False, gradient_as_bucket_view=self.device.type == "cuda"
        )
        self.booster, model, self.boosted = _boost(plugin, in_precision(self.module, plan), self.optimizer)
        self.distributed: nn.Module = model.module
        return model

    def _announce(self, last: bool) -> None:
        exchange_in_backward(self.distributed, last)

    def _backward(self, loss: Tensor) -> None:
        self.booster.backward(self.scaler.scale(loss), self.boosted)

    def _clip(self) -> None:
        self.boosted.clip_grad_by_norm(self.clip_norm)


class ColossalAIZeroEngine(WindowedEngine):
    """See `Engine`. Stages 1 and 2."""

    def __init__(self, plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device):
        plugins = _import_colossalai()
        super().__init__(model, optimizer, device)
        self.stage, self.inner = plan.zero_stage, optimizer
        self._skip_nonfinite(plan)
        plugin = plugins.LowLevelZeroPlugin(
            stage=self.stage,
            precision="fp32",
            max_norm=plan.recipe.optimizer.clip_norm,
            overlap_communication=device.type == "cuda",
            cast_inputs=False,
        )
        self.booster, self.model, self.zero = _boost(plugin, in_precision(self.module, plan), optimizer)
        self.optimizer = self.zero
        self.scaling = _LossScaling(self.zero) if plan.recipe.precision == "fp16" else None
        self.zero.mixed_precision_mixin = self.scaling
        self.shards().bind(optimizer)
        self.accumulation = plan.split.accumulation

    def _announce(self, last: bool) -> None:
        # Stage 2 keeps only slices of the gradients, so every pass exchanges.
        self.zero.require_grad_sync = last or self.stage == 2

    def _backward(self, loss: Tensor) -> None:
        self.booster.backward(loss, self.zero)

    def _may_update(self) -> bool:
        # Asking waits for the device; LowLevelZero does so in every step anyway, to know the norm of the
        # gradient.
        return self.scaling is not None or _finite_on_all_ranks(self.zero)

    def _update(self) -> bool:
        self.zero.step()
        return not (self.scaling and self.scaling.overflowed)

    @property
    def loss_scale(self) -> float:
        return self.scaling.scale if self.scaling else 1.0

    def shards(self) -> optim.Shards:
        return optim.colossalai_shards((self.model, self.zero))

    def save(self) -> EngineState | None:
        model, states = self.shards().gather(self.inner)
        return (
            None
            if self.rank
            else {
                "model": model,
                "optimizer": states,
                **(self.scaling.state() if self.scaling else NO_SCALING),
            }
        )

    def load(self, state: EngineState) -> None:
        self.shards().scatter(self.inner, state["model"], state["optimizer"])
        if self.scaling:
            self.scaling.load(state)


def _import_colossalai() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that apex is not installed, and deprecations inside
        import colossalai.booster.plugin as plugins
    return plugins


def _boost(plugin: Any, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any, Any]:
    """The booster, and the model and the optimizer as it wraps them; the modules inside stay the ones that
    came.
    """
    from colossalai.booster import Booster

    logging.getLogger("colossalai").setLevel(logging.WARNING)
    booster, before = Booster(plugin=plugin), list(module.modules())
    with _batch_norm_as_it_is():
        model, wrapped, *_ = booster.boost(module, optimizer)
    assert list(model.unwrap().modules()) == before, "ColossalAI exchanged a module of the model"
    return booster, model, wrapped


@contextlib.contextmanager
def _batch_norm_as_it_is() -> Iterator[None]:
    """Makes torch's conversion to SyncBatchNorm do nothing: TorchDDPPlugin cannot be told to leave it out."""
    conversion = vars(nn.SyncBatchNorm)["convert_sync_batchnorm"]
    nn.SyncBatchNorm.convert_sync_batchnorm = staticmethod(lambda module, process_group=None: module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.SyncBatchNorm.convert_sync_batchnorm = conversion  # type: ignore[method-assign]


def _finite_on_all_ranks(zero: Any) -> bool:
    """Whether the gradients are finite, of which every rank sees its slices. Collective."""
    gradients = [
        part for group in range(zero.num_param_groups) for part in zero.get_working_grads_by_group_id(group)
    ]
    finite = torch.stack([gradient.isfinite().all() for gradient in gradients]).all().float()
    dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite.item())


class _LossScaling(LossScale):
    """Of a LowLevelZeroOptimizer, which asks these methods.

    ColossalAI's own moves the scale before it divides by it: the step in which the scale grows is taken with
    half its gradient.
    """

    def __init__(self, zero: Any):
        super().__init__()
        self.zero = zero
        self.overflowed = False
        self._used = self.scale

    def pre_backward(self, loss: Tensor) -> Tensor:
        self._used = self.scale
        return loss * self.scale

    def pre_zero_grad(self) -> None:
        """Nothing to do."""

    def should_skip_step(self) -> bool:
        """Whether a gradient of any rank overflowed; moves the scale for the next step. Collective."""
        self.overflowed = not _finite_on_all_ranks(self.zero)
        self.move(overflowed=self.overflowed)
        return self.overflowed

    def get_grad_div_scale(self) -> float:
        return self._used
