"""How loader processes start and end: forked by a server that has one thread, never by a rank.

A rank has threads (of its exchanges, of the queues to its workers, of the checkpoint's writer), and what is
forked from a process with threads gets its locks as they stand: one that a thread holds at that moment is
never opened, and the worker hangs. PyTorch's notes on DistributedDataParallel warn of it for NCCL and for
Gloo over InfiniBand.

Cost: one more process a rank, which imports torch while the rank does so too. After that a worker starts in
hundredths of a second.
"""

import contextlib
import functools
import multiprocessing
import multiprocessing.forkserver
import os
import select
import sys
import threading
import time
from typing import Any

_SERVED = sys.platform == "linux"
"""Elsewhere workers are spawned: they have no threads either, and their rank is their parent, whose end
torch's workers notice.
"""


_PATIENCE = 0.5
"""Seconds between two looks at the rank, where the system does not tell of its end."""


def start_server() -> None:
    """Starts the server, if it does not run, and does not wait for it: called early, it is ready when the
    first worker is wanted.
    """
    if _SERVED:
        multiprocessing.set_forkserver_preload(["lbtrain.data.fork_server"])
        multiprocessing.forkserver.ensure_running()


def worker_options(count: int) -> dict[str, Any]:
    """What a DataLoader has to be told for `count` worker processes (0: its items are loaded where they are
    asked for).
    """
    if not count or not _SERVED:
        return {"num_workers": count}
    start_server()
    return {
        "num_workers": count,
        "multiprocessing_context": "forkserver",
        "worker_init_fn": functools.partial(_end_with, os.getpid()),
    }


def _end_with(rank: int, worker: int) -> None:
    """Ends this process as soon as the process `rank` is gone, however it went. torch looks at the parent,
    which is the server here.
    """

    def watch() -> None:
        try:
            select.select([os.pidfd_open(rank)], [], [])
        except ProcessLookupError:
            pass
        except OSError:  # the kernel is older than this call, or a container forbids it
            with contextlib.suppress(ProcessLookupError):
                while True:
                    os.kill(rank, 0)
                    time.sleep(_PATIENCE)
        finally:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
