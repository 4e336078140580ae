"""One rank of a timed launch. A launcher starts it through tools/kit/start.py:

    FOLDER STEPS exchange|no-exchange RECIPE key=value ...   times of every step: FOLDER/rankN.json
    FOLDER collectives                                       all-reduces: FOLDER/collectives.json

A timed recipe ends after STEPS steps, without evaluation or checkpoint. `no-exchange` leaves the gradients as
each rank has them, which is how computing alone is measured; the weights of such a run mean nothing. An
all-reduce's time is the median of 7 after 2 unmeasured ones; ranks start together behind a barrier.
"""

import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.nn.parallel import DistributedDataParallel

from lbtrain.engines import Engine
from lbtrain.errors import LaunchError, UserError
from lbtrain.launch.environment import own_arguments
from lbtrain.launch.world import detect_world, leave_process_group, start_process_group
from lbtrain.recipe.files import load_recipe
from lbtrain.run import run
from lbtrain.tasks import Task

from .stopwatch import Stopwatch, TimedTask

SIZES = [4 * 4**power for power in range(4, 12)]  # 1 KiB to 16 MiB


def timed(folder: Path, steps: int, exchange: bool, task: Task, engine: Engine) -> tuple[Any, Any]:
    """What `lbtrain.run.run` puts between the loop and its engine and task."""
    if not exchange and engine.world_size > 1:
        switch_off_exchange(engine.model)
    watch = Stopwatch(engine, folder, steps, profile=not exchange)
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


def all_reduce_seconds(num_bytes: int, device: torch.device) -> float:
    values = torch.zeros(num_bytes // 4, device=device)
    times = []
    for _ in range(9):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def time_collectives(folder: Path) -> None:
    device = start_process_group(detect_world())
    found = [{"num_bytes": size, "seconds": all_reduce_seconds(size, device)} for size in SIZES]
    if dist.get_rank() == 0:
        (folder / "collectives.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    leave_process_group()


def time_recipe(folder: Path, steps: int, exchange: str, recipe: Path, *overrides: str) -> None:
    wrappers = partial(timed, folder, steps, exchange == "exchange")
    try:
        run(load_recipe(recipe).with_overrides(overrides), recipe.stem, wrappers=wrappers)
    except UserError as error:
        sys.exit(f"error: {error}")


def main() -> None:
    folder, what, *rest = own_arguments(sys.argv[1:])
    if what == "collectives":
        time_collectives(Path(folder))
    else:
        exchange, recipe, *overrides = rest
        time_recipe(Path(folder), int(what), exchange, Path(recipe), *overrides)


if __name__ == "__main__":
    main()
