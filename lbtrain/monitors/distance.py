"""How far the weights have moved: Hoffer et al. 2017 ("Train longer, generalize better", section 3) saw
log(steps) growth at first.

Cost: a copy of the initial weights on the device, one read of both for every logged row.
"""

from collections.abc import Iterator

import torch

from lbtrain.data import dataset_info
from lbtrain.engines.protocol import Engine
from lbtrain.monitors.protocol import Monitor, StepResult
from lbtrain.recipe import Recipe
from lbtrain.runs.rows import DistanceRow
from lbtrain.tasks import build_model


class DistanceMonitor(Monitor):
    """Measures if the recipe says so. The initial weights are the recipe's own, so that a resumed run has
    them again.
    """

    def __init__(self, recipe: Recipe, engine: Engine):
        self.start: list[torch.Tensor] = []
        if recipe.measure.distance:
            self.weights = list(engine.trained.values())
            with torch.random.fork_rng():
                initial = build_model(recipe, dataset_info(recipe.data))
            start = map(initial.get_parameter, engine.trained)
            self.start = [p.detach().to(engine.device) for p in start]

    @torch.no_grad()
    def at_log(self, done: StepResult) -> Iterator[DistanceRow]:
        if self.start:
            squares = [
                (w.double() - start).square().sum() for w, start in zip(self.weights, self.start, strict=True)
            ]
            yield DistanceRow(
                done.progress.step, done.progress.examples, float(torch.stack(squares).sum().sqrt())
            )
