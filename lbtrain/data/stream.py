"""The order in which a run sees its examples: one endless stream, split the same way whatever the world.

The stream is epoch after epoch, each a seeded permutation of the data set. A global batch is the next
`batch_size` positions, a ghost batch the next `bn_batch_size` of them, and rank r's micro-batch k after
position `start` is the block

    [start + (k * world_size + r) * micro_batch_size, ... + micro_batch_size)

Since whole ghost batches lie in these blocks (or a block in a ghost batch, which then spans neighbouring
ranks), the set of ghost batches of a step does not depend on the world size (Goyal et al. 2017, section 2.3
and remark 4: one shuffle per epoch, split among the workers). The only state is the number of examples seen;
nothing is dropped at the end of an epoch, a batch may reach into the next.

With repeated augmentation (Hoffer et al. 2020; Touvron et al. 2021, DeiT) an epoch shows each image of a part
of the data set `repeats` times, as differently augmented copies in as many neighbouring ghost batches: what
DeiT's sampler gives to as many neighbouring ranks.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Block(NamedTuple):
    """Examples to load: which of its augmentation draws each gets (the epoch, or epoch x repeats + copy), and
    its index in the data set. Shape (n,) both.

    `own`: those that are this rank's part of the step; the others are loaded beside them, and are another's
    to report on.
    """

    epochs: NDArray[np.int64]
    indices: NDArray[np.int64]
    own: slice = slice(None)

    @classmethod
    def of(cls, indices: NDArray[np.int64]) -> "Block":
        """With the draws of the first epoch."""
        return cls(np.zeros_like(indices), indices)


class Stream(Protocol):
    """The examples of a run in their order, without end."""

    def block(self, start: int, length: int) -> Block:
        """The `length` examples from position `start` on; they may cross the end of one or more epochs."""


@dataclass(frozen=True)
class SampleStream:
    """Position in the run -> (epoch, index in the data set), for a data set of `num_examples`."""

    num_examples: int
    seed: int
    repeats: int = 1
    """Copies of an image within an epoch."""
    group: int = 1
    """Positions between two copies."""

    def block(self, start: int, length: int) -> Block:
        """See `Stream`."""
        positions = np.arange(start, start + length)
        epochs, offsets = np.divmod(positions, self.num_examples)
        indices = np.empty(length, np.int64)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            chosen = self._chosen(offsets[inside])
            indices[inside] = _permutation(self.num_examples, self.seed, int(epoch))[chosen]
        return Block(epochs * self.repeats + offsets // self.group % self.repeats, indices)

    def _chosen(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in the epoch -> places in its permutation."""
        rounds, within = np.divmod(offsets, self.repeats * self.group)
        return (rounds * self.group + within % self.group) % self.num_examples


@functools.lru_cache(maxsize=4)
def _permutation(num_examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def train_blocks(
    stream: Stream, *, start: int, micro_batch_size: int, rank: int, world_size: int, group: int = 1
) -> Iterator[Block]:
    """Rank `rank`'s micro-batches from position `start` on, without end, each widened to the whole groups in
    which it lies.
    """
    for first in itertools.count(start + rank * micro_batch_size, world_size * micro_batch_size):
        origin, length = whole_groups(first, micro_batch_size, group)
        yield stream.block(origin, length)._replace(
            own=slice(first - origin, first - origin + micro_batch_size)
        )


def whole_groups(start: int, length: int, group: int) -> tuple[int, int]:
    """(start, length) of the groups of `group` neighbouring positions in which `start` to `start + length`
    lie.
    """
    first = start // group * group
    return first, -(-(start + length) // group) * group - first


PADDING = -1
"""The epoch of an example that only fills a block and must not be scored."""


def evaluation_blocks(
    num_examples: int, *, micro_batch_size: int, rank: int, world_size: int
) -> Iterator[Block]:
    """This rank's share of an evaluation: over all ranks every example is scored once.

    All ranks get equally many blocks, equally long (sharded engines need every rank in every forward pass);
    what that adds is marked PADDING.
    """
    for first in range(0, num_examples, micro_batch_size * world_size):
        positions = np.arange(micro_batch_size) + first + rank * micro_batch_size
        yield Block(np.where(positions < num_examples, 0, PADDING), positions % num_examples)
