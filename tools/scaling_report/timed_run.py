"""Runs a recipe on this rank with a stopwatch round its engine and task, for a fixed number of steps. Started
by `measure`:

    timed_run.py FOLDER STEPS exchange|no-exchange RECIPE key=value ...

Writes FOLDER/rankN.json with the times of every step, then ends the run: no evaluation, no checkpoint.
`no-exchange` leaves gradients as each rank has them, which is how computing alone is measured; the weights of
such a run mean nothing.
"""

import sys
from pathlib import Path
from typing import Any

# Launchers start this file by its path, on hosts where only lbtrain is installed.
sys.path.insert(0, str(Path(__file__).parents[2]))

from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.nn.parallel import DistributedDataParallel

from lbtrain.engines import Engine
from lbtrain.errors import LaunchError, UserError
from lbtrain.main import run
from lbtrain.tasks import Task
from tools.recipe_file import load_recipe
from tools.scaling_report.stopwatch import Stopwatch, TimedTask


class Wrappers:
    """What `lbtrain.main.run` puts between the loop and its engine and task."""

    def __init__(self, folder: Path, steps: int, *, exchange: bool):
        self._folder, self._steps, self._exchange = folder, steps, exchange

    def __call__(self, task: Task, engine: Engine) -> tuple[Any, Any]:
        if not self._exchange and engine.world_size > 1:
            switch_off_exchange(engine.model)
        watch = Stopwatch(engine, self._folder, self._steps, profile=not self._exchange)
        return TimedTask(task, watch), watch


def switch_off_exchange(model: nn.Module) -> None:
    """Gives torch's DistributedDataParallel a hook that returns each bucket as it is. Raises LaunchError
    where it is not what exchanges.
    """
    wrapped = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    if not wrapped:
        raise LaunchError(
            "gradients are not exchanged by DistributedDataParallel here, so computing alone cannot be "
            "measured"
        )
    for module in wrapped:
        module.register_comm_hook(None, noop_hook)


def main() -> None:
    # deepspeed puts --local_rank=N before the script's own words.
    folder, steps, exchange, recipe, *overrides = [
        word for word in sys.argv[1:] if not word.startswith("--local_rank")
    ]
    wrappers = Wrappers(Path(folder), int(steps), exchange=exchange == "exchange")
    try:
        run(load_recipe(Path(recipe)).with_overrides(overrides), Path(recipe).stem, wrappers=wrappers)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
