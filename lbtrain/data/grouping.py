"""Steps of images of like shape, so that little of a batch is padding and all ranks have like work.

The groups are made on the sample stream, before it is split: which images a step holds does not depend on the
world size (each rank grouping its own share, as is usual, would make it depend on that).
"""

from collections import defaultdict
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lbtrain.data.stream import Block, SampleStream


class GroupedStream:
    """A `SampleStream` whose epochs are put in another order: steps of `batch_size` are of one kind as far as
    they go round.

    kinds: int64, the kind of every example. Where an epoch ends inside a step, and with what is left over of
    each kind, steps are mixed, at the ends of the epoch. Every example still comes once an epoch.
    """

    def __init__(self, stream: SampleStream, kinds: NDArray[np.int64], batch_size: int):
        self.stream, self.kinds, self.batch_size = stream, kinds, batch_size
        self._epoch = lru_cache(maxsize=3)(self._grouped)

    def block(self, start: int, length: int) -> Block:
        """See `Stream`."""
        examples = self.stream.num_examples
        epochs, offsets = np.divmod(np.arange(start, start + length), examples)
        indices = np.empty(length, np.int64)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            indices[inside] = self._epoch(int(epoch))[offsets[inside]]
        return Block(epochs, indices)

    def _grouped(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's examples: the rest of the step that the epoch before began, whole steps of one kind in
        the order in which they were complete, and the beginning of the step that goes on in the next epoch.
        """
        examples = self.stream.num_examples
        order = self.stream.block(epoch * examples, examples).indices
        open_groups: dict[int, list[int]] = defaultdict(list)
        whole: list[list[int]] = []
        for index in order.tolist():
            group = open_groups[int(self.kinds[index])]
            group.append(index)
            if len(group) == self.batch_size:
                whole.append(open_groups.pop(int(self.kinds[index])))
        left = [index for kind in sorted(open_groups) for index in open_groups[kind]]
        head = min(-epoch * examples % self.batch_size, examples)
        while len(left) < head:
            left += whole.pop()
        return np.array(
            [*left[:head], *(index for group in whole for index in group), *left[head:]], np.int64
        )


def kinds_of(sizes: NDArray[np.int64], group_by: str) -> NDArray[np.int64]:
    """aspect: upright or not; size: the aspect ratio in steps of a quarter of an octave, which settles the
    padded size once the short edge is scaled. sizes: (height, width), shape (n, 2).
    """
    if group_by == "aspect":
        return (sizes[:, 0] > sizes[:, 1]).astype(np.int64)
    return np.rint(4 * np.log2(sizes[:, 1] / sizes[:, 0])).astype(np.int64)
