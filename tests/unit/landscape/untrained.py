"""Run directories with a checkpoint, without the training."""

from pathlib import Path

import numpy as np

from lbtrain import Recipe
from lbtrain.data import dataset_info
from lbtrain.plan.plan import make_plan
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.progress import Progress
from lbtrain.tasks import build_model
from tests.run_rows import write_rows


def write_run(path: Path, *, seed: int, batch_size: int = 64, ghost: int = 8, **model: str) -> Path:
    """A run of `seed` on digits that has stopped after 10 steps, with its initial weights; returns `path`,
    which it makes.

    model: what of a cifar_resnet8 is another.
    """
    recipe = Recipe().vary(
        batch_size=batch_size, bn_batch_size=ghost, seed=seed, model={"name": "cifar_resnet8", **model}
    )
    path.mkdir(parents=True)
    save_initial(path, recipe, step=10)
    rows = [
        {"kind": "distance", "step": step, "examples": step, "distance": 1 + float(np.log(step))}
        for step in (1, 2, 4, 8)
    ]
    rows += [{"kind": "train", "step": row["step"], "lr": 0.1, "batch_size": batch_size} for row in rows]
    (path / "recipe.yaml").write_text(recipe.to_yaml())
    (path / "plan.json").write_text(make_plan(recipe, 1).to_json())
    write_rows(path, rows)
    return path


def save_initial(path: Path, recipe: Recipe, *, step: int) -> None:
    """A checkpoint after so many steps of 64 images, with the initial weights of the recipe's seed."""
    net = build_model(recipe, dataset_info(recipe.data))
    state = {"model": net.state_dict(), "optimizer": {}, "loss_scale": 1.0, "loss_scale_steps": 0}
    checkpoints = Checkpoints(path, keep=2)
    checkpoints.save(state, Progress(64 * step, step), recipe.to_yaml())
    checkpoints.wait()
