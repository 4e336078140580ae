"""How far the weights have moved: Hoffer et al. 2017 ("Train longer, generalize better", section 3) saw
log(steps) growth at first.

Cost: a copy of the initial weights on the device, one read of both for every logged row.
"""

from collections.abc import Iterator

import torch

from lbtrain.data import dataset_info
from lbtrain.engines.protocol import Engine
from lbtrain.errors import RecipeError
from lbtrain.monitors.protocol import Monitor, StepResult
from lbtrain.recipe import Recipe
from lbtrain.runs.rows import DistanceRow
from lbtrain.tasks import build_model
from lbtrain.tasks.weights import loaded_weights


class DistanceMonitor(Monitor):
    """Measures if the recipe says so. The initial weights are the recipe's own, so that a resumed run has
    them again. Raises RecipeError where those in the file of model.weights have another digest.
    """

    def __init__(self, recipe: Recipe, engine: Engine, digest: str):
        self.start: list[torch.Tensor] = []
        if recipe.measure.distance:
            self.weights = list(engine.trained.values())
            with torch.random.fork_rng():
                initial = build_model(recipe, dataset_info(recipe.data))
            if digest and loaded_weights(initial).digest != digest:
                raise RecipeError(
                    f"measure.distance=true: model.weights={recipe.model.weights} holds other weights than "
                    "those that this run started from. Restore the file, or set measure.distance=false."
                )
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
