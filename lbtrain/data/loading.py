"""Blocks of the sample stream -> batches on the device, loaded ahead by worker processes."""

from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from lbtrain.data.sources import Batch, InMemorySource, Source
from lbtrain.sampling import Block


class _Blocks(Dataset[Batch]):
    """A data set whose item is a whole micro-batch, so that a source can read and augment it in one go."""

    def __init__(self, source: Source):
        self.source = source

    def __getitem__(self, block: Block) -> Batch:
        return self.source.fetch(block)


def batches(source: Source, blocks: Iterable[Block], *, workers: int, device: torch.device) -> Iterator[Batch]:
    """The batches of `blocks` in order; `workers` only changes who loads them.

    Without workers, images that are held in memory move to the device once and are augmented there; all else arrives through pinned memory.
    """
    if not workers and isinstance(source, InMemorySource):
        source.to(device)
        yield from map(source.fetch, blocks)
        return
    on_gpu = device.type == "cuda"
    loader = DataLoader(_Blocks(source), batch_size=None, sampler=blocks, num_workers=workers, pin_memory=on_gpu)
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
