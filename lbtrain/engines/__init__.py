"""Engines: one protocol over plain torch, DeepSpeed, accelerate and ColossalAI. The loop knows
nothing else about them.
"""

import torch
from torch import nn

from lbtrain.engines.protocol import Engine, EngineState
from lbtrain.nn import check_unwrapped
from lbtrain.plan.plan import Plan

__all__ = ["Engine", "EngineState", "create_engine"]


def create_engine(
    plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Engine:
    """The engine that the plan names, on the process group that is already up. Imports only that engine's
    library. Raises ValueError for a model in a wrapper.
    """
    check_unwrapped(model)
    if plan.engine == "deepspeed":
        from lbtrain.engines.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(plan, model, optimizer, device)
    if plan.engine == "accelerate":
        from lbtrain.engines.accelerate import AccelerateEngine

        return AccelerateEngine(plan, model, optimizer, device)
    if plan.engine == "colossalai":
        from lbtrain.engines.colossalai import ColossalAIEngine, ColossalAIZeroEngine

        return (ColossalAIZeroEngine if plan.zero_stage else ColossalAIEngine)(plan, model, optimizer, device)
    from lbtrain.engines.ddp import DDPEngine

    return DDPEngine(plan, model, optimizer, device)
