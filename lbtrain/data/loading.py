"""Blocks of the sample stream -> batches on the device, loaded ahead by worker processes."""

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lbtrain.data.photos import PhotoSource
from lbtrain.data.sources import Batch, InMemorySource, Source
from lbtrain.data.stream import Block
from lbtrain.errors import HostError, UserError, naming_the_shortage
from lbtrain.launch.workers import worker_options
from lbtrain.output import say

_T = TypeVar("_T")


class _Blocks(Dataset[tuple[Batch, list[str]]]):
    """A data set whose item is a whole micro-batch, so that a source can read and augment it in one go, with
    messages about the images replaced in it.
    """

    def __init__(self, source: Source):
        self.source = source

    def __getitem__(self, block: Block) -> tuple[Batch, list[str]]:
        batch = self.source.fetch(block)
        return batch, self.source.take_replaced() if isinstance(self.source, PhotoSource) else []


class _OrError(Dataset[tuple[Any, UserError | None]]):
    """What a worker sends: an item, or the error in its place. Raised, that would arrive as a traceback and
    before its turn.
    """

    def __init__(self, data: Dataset[Any]):
        self.data = data

    def __getitem__(self, key: Any) -> tuple[Any, UserError | None]:
        try:
            with naming_the_shortage():
                item = self.data[key]
                if get_worker_info():
                    # Here and not in the thread that sends it: where /dev/shm is full, that prints a
                    # traceback, drops the batch, and the rank waits for ever.
                    _share(item)
                return item, None
        except UserError as error:
            return None, error


def _share(item: Any) -> None:
    """Moves every tensor of an item to shared memory, also those of objects such as a batch of instances."""
    if isinstance(item, torch.Tensor):
        item.share_memory_()
    elif isinstance(item, Mapping):
        _share([*item.values()])
    elif isinstance(item, list | tuple):
        for part in item:
            _share(part)
    elif hasattr(item, "__dict__"):
        _share(vars(item))


class _Tally:
    """Images replaced in the batches that this process has handed out, not in those loaded ahead."""

    count = 0
    paused = False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """For batches that are looked at beside the training: they count when their turn comes."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def add(self, messages: list[str]) -> None:
        if self.paused:
            return
        self.count += len(messages)
        say("\n".join(messages), error=True)

    def take(self) -> int:
        """How many since this was last asked."""
        taken, self.count = self.count, 0
        return taken


replaced_images = _Tally()


def batches(
    source: Source, blocks: Iterable[Block], *, workers: int, device: torch.device
) -> Iterator[Batch]:
    """The batches of `blocks` in order; `workers` only changes who loads them. Raises DataError in place of a
    batch that cannot be loaded.

    Without workers, images that are held in memory move to the device once and are augmented there; all else
    arrives through pinned memory. Images replaced in a batch are told on stderr and counted in
    `replaced_images` when its turn has come.
    """
    if not workers and isinstance(source, InMemorySource):
        source.to(device)
        yield from map(source.fetch, blocks)
        return
    for (images, labels), replaced in in_order(
        _Blocks(source), blocks, workers=workers, pinned=device.type == "cuda"
    ):
        if replaced:
            replaced_images.add(replaced)
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def in_order(data: Dataset[_T], keys: Iterable[Any], *, workers: int, pinned: bool = False) -> Iterator[_T]:
    """data[key] of each key; `workers` processes load ahead. Raises DataError in place of an item that raises
    it, HostError where a process is killed.

    `data` is copied into every worker, so it must be picklable, and small or made of tensors (which they
    share).
    """
    loader = DataLoader(
        _OrError(data), batch_size=None, sampler=cast(Any, keys), pin_memory=pinned, **worker_options(workers)
    )
    with _naming_a_lost_worker(workers):
        if workers:
            _check_room(loader.multiprocessing_context, workers)
        with naming_the_shortage():  # of what the workers share with this process, such as images in memory
            loaded = iter(loader)
    while True:
        with _naming_a_lost_worker(workers):
            entry = next(loaded, None)
        if entry is None:
            return
        item, error = entry
        if error:
            raise error
        yield item


def _check_room(context: Any, workers: int) -> None:
    """Raises OSError where there is no room for the queues of a loader. torch makes as many, and prints a
    traceback where it fails; these are closed on return.
    """
    _ = [context.Queue() for _ in range(workers + 1)]


@contextmanager
def _naming_a_lost_worker(workers: int) -> Iterator[None]:
    """Raises HostError where a loader process cannot be started or was killed: found dead by torch, or in the
    middle of handing over a batch. That is the user's business (memory, mostly), not a traceback's.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if workers and isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise HostError(  # the locks of its queues lie there
                f"no loader process can be started ({error}): give /dev/shm more room (docker run "
                "--shm-size=8g), or set data.workers=0"
            ) from error
        own = not workers or str(error).startswith("Caught ")  # raised by what is loaded
        broken = isinstance(error, ConnectionError | FileNotFoundError | EOFError)
        if own or not (broken or "DataLoader worker" in str(error)):
            raise
        raise HostError(
            f"a loader process died ({error or type(error).__name__}): is there memory for data.workers of "
            "them on each rank, and room in /dev/shm?"
        ) from error
