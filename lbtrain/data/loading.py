"""Blocks of the sample stream -> batches on the device, loaded ahead by worker processes."""

from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from lbtrain.data.sources import Batch, Source
from lbtrain.sampling import Block


class _Blocks(Dataset[Batch]):
    """A data set whose item is a whole micro-batch, so that a source can read and augment it in one go."""

    def __init__(self, source: Source):
        self.source = source

    def __getitem__(self, block: Block) -> Batch:
        return self.source.fetch(block)


def batches(source: Source, blocks: Iterable[Block], *, workers: int, device: torch.device) -> Iterator[Batch]:
    """The batches of `blocks` in order; `workers` only changes who loads them. On CUDA they arrive through pinned memory."""
    on_gpu = device.type == "cuda"
    loader = DataLoader(_Blocks(source), batch_size=None, sampler=blocks, num_workers=workers, pin_memory=on_gpu)
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
