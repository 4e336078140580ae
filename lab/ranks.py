"""Run a function on N gloo ranks: worker processes that stay alive between tests, forked by a server that has
imported torch and the engines once for all.

A pool per world size lives for the whole test session. Its process group (and so DeepSpeed's and accelerate's
global state) is made once, and every job runs inside it.
"""

import atexit
import contextlib
import multiprocessing as mp
import os
import random
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_PATIENCE_S = 30
"""For the other ranks when one has failed."""


class RankFailed(AssertionError):
    """A rank raised; the message holds the traceback of every rank that did."""


def run_on_ranks(
    world_size: int, function: Callable[..., Any], *args: Any, timeout: float = 180, **kwargs: Any
) -> list[Any]:
    """Call `function(*args, **kwargs)` on every rank and return the results, rank 0's first.

    `function` must be importable (a module-level function), its arguments and result picklable. A pool in
    which a rank failed, ended or ran past `timeout` seconds, which all have together, is ended: the others
    may hang in a collective. Raises RankFailed.
    """
    pool = _pool(world_size)
    for pipe in pool.pipes:
        with contextlib.suppress(ConnectionError):  # its process has ended, which its reply will say
            pipe.send((function, args, kwargs))
    replies: list[tuple[bool, Any]] = []
    start = time.monotonic()
    end = start + timeout
    for rank, pipe in enumerate(pool.pipes):
        if not pipe.poll(max(0.0, end - time.monotonic())):
            waited = time.monotonic() - start
            replies.append((False, f"rank {rank}: no answer in {waited:.0f} s"))
            continue
        try:
            replies.append(pipe.recv())
        except (EOFError, ConnectionError):
            replies.append((False, f"rank {rank}: the process ended"))
        if not replies[-1][0]:  # the others may wait for this one
            end = min(end, time.monotonic() + _PATIENCE_S)
    failures = [answer for ok, answer in replies if not ok]
    if failures:
        end_pool(world_size)
        raise RankFailed("\n".join(failures))
    return [answer for _, answer in replies]


class _Pool:
    def __init__(self, world_size: int):
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(["lab.preload"])
        environment = os.environ | {
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, environment), daemon=False)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        atexit.register(self.end)

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(0.2)
            if process.is_alive():
                process.kill()
                process.join()


_POOLS: dict[int, _Pool] = {}


def _pool(world_size: int) -> _Pool:
    if world_size not in _POOLS:
        _POOLS[world_size] = _Pool(world_size)
    return _POOLS[world_size]


def end_pool(world_size: int) -> None:
    """For a test whose library leaves something behind in the process: the next one gets new processes."""
    if pool := _POOLS.pop(world_size, None):
        pool.end()


def free_port() -> int:
    """Below those that the system gives to connections, one of which could take it before a rank listens."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _serve(pipe: Connection, rank: int, environment: dict[str, str]) -> None:
    """The server's environment is that of the first test that wanted ranks: it is replaced."""
    os.environ.clear()
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    import datetime

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    while True:
        try:
            function, args, kwargs = pipe.recv()
        except (EOFError, OSError):
            break
        try:
            pipe.send((True, function(*args, **kwargs)))
        except BaseException:
            pipe.send((False, f"rank {rank}:\n{traceback.format_exc()}"))
