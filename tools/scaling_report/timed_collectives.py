"""All-reduce times over all ranks of a launch, by size. Started by `measure --collectives` under a launcher:
timed_collectives.py FOLDER

Rank 0 writes FOLDER/collectives.json. Each time is the median of 7 after 2 unmeasured ones; ranks start
together behind a barrier.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from lbtrain.launch.world import detect_world, leave_process_group, start_process_group

SIZES = [4 * 4**power for power in range(4, 12)]  # 1 KiB to 16 MiB


def all_reduce_seconds(num_bytes: int, device: torch.device, *, repeats: int = 7) -> float:
    values = torch.zeros(num_bytes // 4, device=device)
    times = []
    for _ in range(repeats + 2):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def main() -> None:
    folder = Path(next(word for word in sys.argv[1:] if not word.startswith("--local_rank")))
    device = start_process_group(detect_world())
    found = [{"num_bytes": size, "seconds": all_reduce_seconds(size, device)} for size in SIZES]
    if dist.get_rank() == 0:
        (folder / "collectives.json").write_text(json.dumps(found))
    dist.barrier()
    leave_process_group()


if __name__ == "__main__":
    main()
