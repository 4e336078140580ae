"""When an engine exchanges gradients: what every rank's first layer holds after each backward pass of a
window.
"""

from typing import Any

import torch
import torch.distributed as dist

from tests.distributed.runs import SMALL


def engine_of(changes: dict[str, Any]) -> Any:
    """An engine around the model of SMALL with `changes`, two passes a step, as every rank makes it."""
    from lbtrain import Recipe
    from lbtrain.data import dataset_info
    from lbtrain.engines import create_engine
    from lbtrain.nn import convert_to_ghost_batch_norm
    from lbtrain.optim import create_optimizer
    from lbtrain.plan.plan import make_plan
    from lbtrain.tasks import build_model

    recipe = Recipe().vary(**SMALL).vary(**changes, micro_batch_size=16)
    plan = make_plan(recipe, dist.get_world_size(), engine=recipe.engine)
    model = convert_to_ghost_batch_norm(build_model(recipe, dataset_info(recipe.data)), plan.bn_batch_size)
    return create_engine(plan, model, create_optimizer(recipe.optimizer, model), torch.device("cpu"))


def error_of_an_engine(zero: dict[str, Any], optimizer: str, stage: int) -> str:
    """Why an engine rejects to start with these keys of ZeRO, which come past the reading of a file."""
    from lbtrain.engines import deepspeed
    from lbtrain.optim import UnsupportedSharding

    def changed(*args: Any) -> dict[str, Any]:
        config = complete_config(*args)
        return config | {"zero_optimization": config["zero_optimization"] | zero}

    complete_config, deepspeed.complete_config = deepspeed.complete_config, changed
    try:
        engine_of(dict(engine="deepspeed", deepspeed=dict(zero_stage=stage), optimizer=dict(name=optimizer)))
    except UnsupportedSharding as error:
        return str(error)
    finally:
        deepspeed.complete_config = complete_config
    return "no error"


def alike_after_each_pass(changes: dict[str, Any]) -> list[bool]:
    """For a window of two passes, before the engine is asked to step: whether all ranks hold one gradient."""
    engine = engine_of(changes)
    assert engine.accumulation == 2
    alike = []
    for part in range(2):
        images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(2 * dist.get_rank() + part))
        engine.backward(engine.model(images).square().mean())
        gradient = next(engine.module.parameters()).grad
        assert gradient is not None
        everywhere = [torch.empty_like(gradient) for _ in range(dist.get_world_size())]
        dist.all_gather(everywhere, gradient)
        alike.append(all(torch.equal(one, gradient) for one in everywhere))
    return alike


def step_of(engine: Any) -> bool:
    """A step on images that are the same for every engine; whether it was applied."""
    for part in range(engine.accumulation):
        images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(2 * dist.get_rank() + part))
        engine.backward(engine.model(images).square().mean())
    return bool(engine.step(0.1))


def scaled_steps(changes: dict[str, Any]) -> dict[str, Any]:
    """Of fp16 under ZeRO: an overflow, a step, a resume, and how far the step is from the one that `ddp`
    makes.
    """
    from lbtrain.engines.ddp import load_loss_scale

    engine, again = engine_of(changes), engine_of(changes)
    oracle = engine_of(changes | dict(engine="ddp", deepspeed=dict(zero_stage=0)))
    load_loss_scale(oracle.scaler, {"loss_scale": 1024.0, "loss_scale_steps": 0})
    engine.scaling.scale = 2.0**120
    overflowed = not step_of(engine)
    after, engine.scaling.scale = engine.scaling.scale, 1024.0
    applied = step_of(engine), step_of(oracle)
    weights = dict(oracle.module.named_parameters())
    state = engine.save() or {"model": {}, "loss_scale": 1024.0, "loss_scale_steps": 1}
    far = [
        float((tensor - weights[name]).norm() / weights[name].norm())
        for name, tensor in state["model"].items()
        if name in weights
    ]
    everywhere = [state]
    dist.broadcast_object_list(everywhere)
    again.load(everywhere[0])
    saved = {name: state[name] for name in again.scaling.state()}
    return dict(
        overflowed=overflowed,
        after=after,
        applied=applied,
        saved=saved,
        loaded=again.scaling.state(),
        far=max(far, default=0),
    )
