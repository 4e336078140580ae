"""When an engine exchanges gradients: what every rank's first layer holds after each backward pass of a window."""

from typing import Any

import torch
import torch.distributed as dist

from tests.distributed.runs import SMALL


def alike_after_each_pass(changes: dict[str, Any]) -> list[bool]:
    """For a window of two passes, before the engine is asked to step: whether all ranks hold one gradient."""
    from lbtrain import Recipe
    from lbtrain.data import facts
    from lbtrain.engines import create_engine
    from lbtrain.nn import convert_to_ghost_batch_norm
    from lbtrain.optim import create_optimizer
    from lbtrain.plan import make_plan
    from lbtrain.tasks import build_model

    recipe = Recipe().vary(**SMALL).vary(**changes, micro_batch_size=16)
    plan = make_plan(recipe, dist.get_world_size(), engine=recipe.engine)
    model = convert_to_ghost_batch_norm(build_model(recipe, facts(recipe.data)), plan.bn_batch_size)
    engine = create_engine(recipe, plan, model, create_optimizer(recipe.optimizer, model), torch.device("cpu"))
    assert engine.accumulation == 2
    alike = []
    for part in range(2):
        images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(2 * dist.get_rank() + part))
        engine.backward(engine.model(images).square().mean())
        gradient = next(model.parameters()).grad
        assert gradient is not None
        everywhere = [torch.empty_like(gradient) for _ in range(dist.get_world_size())]
        dist.all_gather(everywhere, gradient)
        alike.append(all(torch.equal(one, gradient) for one in everywhere))
    return alike
