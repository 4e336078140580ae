"""accelerate's Accelerator as an engine. It wraps the model and the optimizer; the window, the rate and the
statistics stay ours.

Rank and world size are torch.distributed's: the Accelerator can report others (docs/engines.md). Its
scheduler wrapper, which ticks once per process, and its own gradient accumulation are not used.
"""

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, GradientAccumulationPlugin
from torch import Tensor, nn

from lbtrain.engines.ddp import DDPEngine, without_buffer_broadcast
from lbtrain.errors import LaunchError
from lbtrain.plan.plan import Plan

_KNOWN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class AccelerateEngine(DDPEngine):
    """See `Engine`. What differs from the oracle is who wraps, scales, clips and steps."""

    def _wrap(self, plan: Plan) -> nn.Module:
        exchange = DistributedDataParallelKwargs(gradient_as_bucket_view=self.device.type == "cuda")
        precision = {"fp32": "no"}.get(plan.recipe.precision, plan.recipe.precision)
        # it keeps the precision of a run before this one in the same process, and takes no other
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu",
            mixed_precision=precision,
            kwargs_handlers=[exchange],
            # given, or it takes a number from the environment and divides every gradient by it
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
        if self.accelerator.distributed_type not in _KNOWN:
            raise LaunchError(
                f"accelerate is configured for {self.accelerator.distributed_type.value}, and "
                "engine=accelerate does plain data parallel: "
                "launch with `accelerate launch --multi_gpu`, or use engine=deepspeed"
            )
        model, self.optimizer = self.accelerator.prepare(self.module, self.optimizer)
        if self.accelerator.scaler is not None:
            self.scaler = self.accelerator.scaler
        return without_buffer_broadcast(model)

    def _backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def _update(self) -> bool:
        if self.clip_norm:
            self.accelerator.clip_grad_norm_(self.module.parameters(), self.clip_norm)
        self.optimizer.step()
        return not self.accelerator.optimizer_step_was_skipped
