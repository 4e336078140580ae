"""Work on whole layers, each done once, shared between the ranks that hold parts or copies of them.

Moonlight's way (Liu et al. 2025, algorithm 1) gathers every layer on every rank; Dion's (Ahn et al. 2025,
section 3.4) and KellerJordan's deal the layers to ranks. Here layers are dealt too, and only what a rank
lacks travels: with parts, all-to-all of exactly the parts to the owners and of the results back; with copies,
a broadcast from each owner.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .layout import Slice, UnsupportedSharding

Function = Callable[[Tensor], Tensor]


class SharedWork:
    """Who works on which of some layers. Every rank of a process group makes one, for the same layers in the
    same order; a collective call where the layers are sharded.
    """

    def __init__(self, slices: Sequence[Slice], copies: dist.ProcessGroup | None = None):
        """`copies`: the ranks that hold the same whole layers; None: nobody else does."""
        groups = {id(part.process_group): part.process_group for part in slices}
        assert len(groups) == 1, "the layers of one parameter group are sharded over the same ranks"
        apart = [part.name for part in slices if part.offset < 0]
        if apart:
            raise UnsupportedSharding(
                f"{apart[0]} is sharded along another dimension than its first ({len(apart)} such layers); "
                "use fully_shard's default, Shard(0)"
            )
        (self.sharded_over,) = groups.values()
        self.process_group = self.sharded_over or copies
        self.ranks = 1 if self.process_group is None else dist.get_world_size(self.process_group)
        self.rank = 0 if self.process_group is None else dist.get_rank(self.process_group)
        self.shapes = [part.shape for part in slices]
        self.owners = deal([cost(shape) for shape in self.shapes], self.ranks)
        self.mine = [row for row, owner in enumerate(self.owners) if owner == self.rank]
        self.places = [self._held(slices)]
        if self.sharded_over is not None:
            self.places = [[] for _ in range(self.ranks)]
            dist.all_gather_object(self.places, self._held(slices), group=self.sharded_over)

    @staticmethod
    def _held(slices: Sequence[Slice]) -> list[tuple[int, int]]:
        return [(part.offset, part.weight.numel()) for part in slices]

    def fits(self, slices: Sequence[Slice]) -> bool:
        """Whether these are still the layers that the work was shared for."""
        own = self.places[self.rank if self.sharded_over is not None else 0]
        return self.shapes == [part.shape for part in slices] and own == self._held(slices)

    def run(self, tensors: Sequence[Tensor], function: Function) -> list[Tensor]:
        """`function` of every whole layer, and of each the part that lies here. Collective with several
        ranks.

        `tensors` are this rank's parts (or copies) of the layers; `function` maps a layer to one of its
        shape.
        """
        if self.sharded_over is not None:
            return self._over_parts(tensors, function)
        done = {row: function(tensors[row]) for row in self.mine}
        if self.ranks == 1:
            return [done[row] for row in range(len(tensors))]
        return self._broadcast(tensors, done)

    def _broadcast(self, tensors: Sequence[Tensor], done: dict[int, Tensor]) -> list[Tensor]:
        results = list(tensors)
        pending = []
        for owner in range(self.ranks):
            rows = [row for row, other in enumerate(self.owners) if other == owner]
            if not rows:
                continue
            flat = (
                torch.cat([done[row].reshape(-1) for row in rows])
                if owner == self.rank
                else tensors[0].new_empty(sum(tensors[row].numel() for row in rows))
            )
            source = dist.get_global_rank(self.process_group, owner)  # type: ignore[arg-type]
            work = dist.broadcast(flat, source, group=self.process_group, async_op=True)
            pending.append((work, flat, rows))
        for work, flat, rows in pending:
            assert work is not None
            work.wait()
            pieces = flat.split([tensors[row].numel() for row in rows])
            for row, piece in zip(rows, pieces, strict=True):
                results[row] = piece.view(tensors[row].shape)
        return results

    def _over_parts(self, tensors: Sequence[Tensor], function: Function) -> list[Tensor]:
        by_owner = [
            [row for row, other in enumerate(self.owners) if other == rank] for rank in range(self.ranks)
        ]
        sent = [tensors[row].reshape(-1) for rows in by_owner for row in rows]
        out = [sum(tensors[row].numel() for row in rows) for rows in by_owner]
        back = [sum(self.places[rank][row][1] for row in self.mine) for rank in range(self.ranks)]
        held = self._exchange(sent, out, back, like=tensors[0])
        layers = {row: tensors[0].new_zeros(self.shapes[row].numel()) for row in self.mine}
        for row, place, piece in self._pieces(held):
            layers[row].narrow(0, *place).copy_(piece)
        done = {row: function(layer.view(self.shapes[row])).reshape(-1) for row, layer in layers.items()}
        returned = [
            done[row].narrow(0, *self.places[rank][row]) for rank in range(self.ranks) for row in self.mine
        ]
        received = self._exchange(returned, back, out, like=tensors[0])
        rows = [row for rows in by_owner for row in rows]
        parts = received.split([tensors[row].numel() for row in rows])
        results = dict(zip(rows, parts, strict=True))
        return [results[row].view(tensors[row].shape) for row in range(len(tensors))]

    def _pieces(self, held: Tensor) -> list[tuple[int, tuple[int, int], Tensor]]:
        """What all ranks sent of this rank's layers: layer, place in it, elements."""
        rows = [(row, self.places[rank][row]) for rank in range(self.ranks) for row in self.mine]
        parts = held.split([place[1] for _, place in rows])
        return [(row, place, part) for (row, place), part in zip(rows, parts, strict=True)]

    def _exchange(self, parts: list[Tensor], sizes: list[int], expected: list[int], like: Tensor) -> Tensor:
        received = like.new_empty(sum(expected))
        sent = torch.cat(parts) if parts else like.new_empty(0)  # a rank may have no layer to work on
        dist.all_to_all_single(received, sent, expected, sizes, group=self.process_group)
        return received


def cost(shape: torch.Size) -> int:
    """Multiplications of one Newton-Schulz step on a layer of this shape, up to a factor."""
    rows, columns = shape[0], shape.numel() // shape[0]
    return rows * columns * min(rows, columns)


def deal(costs: Sequence[int], ranks: int) -> list[int]:
    """The rank that works on each layer: the costliest first, each to the rank with the least to do."""
    load, owners = [0] * ranks, [0] * len(costs)
    for row in sorted(range(len(costs)), key=lambda row: (-costs[row], row)):
        owners[row] = load.index(min(load))
        load[owners[row]] += costs[row]
    return owners
