"""The same steps of a model unsharded and under each engine that shards an optimizer's layers."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .optimizers import OptimizerChoice, deepspeed_section, make_optimizer

Loss = Callable[[nn.Module, int], Tensor]
"""Of a model on this rank's images of a step."""
Weights = dict[str, Tensor]


def weights_of(state: Any, model: nn.Module) -> Weights:
    """Copies of the whole parameters of `model` by name, from the state dict `state`."""
    return {name: state[name].detach().cpu().clone() for name, _ in model.named_parameters()}


def unsharded(
    choice: OptimizerChoice, model: nn.Module, loss: Loss, steps: int, noise: float = 0.0
) -> Weights:
    """Every rank holds all layers and the average gradients, to which random numbers are added, alike on all
    ranks: `noise` times the largest element of each layer's.
    """
    optimizer = make_optimizer(choice, model)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        loss(model, step).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad.div_(dist.get_world_size())
                if noise:
                    random = torch.randn(parameter.shape, generator=generator)
                    parameter.grad.add_(random * parameter.grad.abs().max(), alpha=noise)
        optimizer.step()
        optimizer.zero_grad()
    return weights_of(model.state_dict(), model)


def deepspeed(choice: OptimizerChoice, model: nn.Module, loss: Loss, steps: int, stage: int) -> Weights:
    from lbtrain.engines.deepspeed import import_deepspeed
    from lbtrain.optim import bind_deepspeed, deepspeed_shards

    library = import_deepspeed(next(model.parameters()).device)
    library.logger.setLevel("ERROR")
    own = choice.source == "deepspeed"
    optimizer = None if own else make_optimizer(choice, model)
    config = {
        "train_micro_batch_size_per_gpu": 1,  # unused: images are given to the model directly
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "reduce_scatter": not own or choice.name != "muon"},
        **({"optimizer": deepspeed_section(choice)} if own else {}),
    }
    engine, *_ = library.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False,
        model_parameters=[p for p in model.parameters() if p.requires_grad] if own else None,
    )  # fmt: skip
    if optimizer is not None:
        bind_deepspeed(optimizer, engine)
    for step in range(steps):
        engine.backward(loss(engine, step))
        engine.step()
    if not stage:
        return weights_of(engine.module.state_dict(), engine.module)
    return weights_of(deepspeed_shards(engine).gather(engine.optimizer.optimizer)[0], engine.module)


def fsdp2(choice: OptimizerChoice, model: nn.Module, loss: Loss, steps: int, stage: int) -> Weights:
    """torch's fully_shard: each parameter is a DTensor of which a rank holds some rows."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(model.parameters()).device.type
    fully_shard(model, mesh=init_device_mesh(device, (dist.get_world_size(),)))
    optimizer = make_optimizer(choice, model)
    names = {name for name, _ in model.named_parameters()}
    for step in range(steps):
        loss(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {
        name: shard.full_tensor().detach().cpu()
        for name, shard in model.state_dict().items()
        if name in names
    }


def colossalai(choice: OptimizerChoice, model: nn.Module, loss: Loss, steps: int, stage: int) -> Weights:
    """LowLevelZero, whose optimizer holds an equal part of every parameter."""
    from colossalai.booster import Booster
    from colossalai.booster.plugin import LowLevelZeroPlugin

    from lbtrain.optim import bind_colossalai

    logging.getLogger("colossalai").setLevel(logging.WARNING)
    with contextlib.nullcontext() if torch.cuda.is_available() else streams_on_cpu():
        optimizer = make_optimizer(choice, model)
        plugin = LowLevelZeroPlugin(stage=stage, precision="fp32", max_norm=0.0, overlap_communication=False)
        boosted = Booster(plugin=plugin).boost(model, optimizer)[:2]
        bind_colossalai(optimizer, boosted)
        for step in range(steps):
            boosted[1].backward(loss(boosted[0], step))
            boosted[1].step()
            boosted[1].zero_grad()
    return weights_of(dict(model.named_parameters()), model)


@contextlib.contextmanager
def streams_on_cpu() -> Iterator[None]:
    """Lets ColossalAI take the CPU for a GPU whose streams do nothing: LowLevelZero asks for streams, and
    nothing overlaps.
    """
    from colossalai.accelerator import get_accelerator, set_accelerator
    from colossalai.accelerator.cpu_accelerator import CpuAccelerator

    class Streams(CpuAccelerator):
        def __init__(self) -> None:
            super().__init__()
            self._name = "cuda"

        def Stream(self, *_: Any, **__: Any) -> None:
            return None

        def current_stream(self, device: torch.device | None = None) -> None:
            return None

        def stream(self, stream_: None) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

    before = get_accelerator()
    set_accelerator(Streams())
    try:
        yield
    finally:
        set_accelerator(before)


ENGINES: dict[str, tuple[Callable[..., Weights], tuple[int, ...], str]] = {
    "deepspeed": (deepspeed, (0, 1, 2, 3), "ZeRO-{stage}"),
    "fsdp2": (fsdp2, (0,), "FSDP2"),
    "colossalai": (colossalai, (1, 2), "ColossalAI's LowLevelZero, stage {stage}"),
}
"""How each trains, its stages (0: it has none) and its name."""
