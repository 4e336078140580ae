"""The smallest distributed program: every rank writes the sum over all ranks, and where it ran, to a folder
all hosts share.
"""

import json
import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
answer = {
    "sum": total.item(),
    "world_size": dist.get_world_size(),
    "host": socket.gethostname(),
    "local_rank": int(os.environ["LOCAL_RANK"]),
}
(Path(sys.argv[-1]) / f"rank{dist.get_rank()}.json").write_text(json.dumps(answer))
dist.destroy_process_group()
