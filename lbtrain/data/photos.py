"""The source of photos: a container, a view and a rule for what cannot be read."""

import copy
import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lbtrain.data.augment import draws, fractions
from lbtrain.data.containers import Container, index_of
from lbtrain.data.decode import MAX_PIXELS, Box, BrokenImage, Photo, unreadable
from lbtrain.data.index import SplitIndex
from lbtrain.data.operators import NO_OPERATORS, Operators
from lbtrain.data.pixels import PixelRules
from lbtrain.data.sources import NOT_SCORED, Batch
from lbtrain.data.stream import PADDING, Block
from lbtrain.data.views import View
from lbtrain.errors import DataError, naming_the_shortage

MOST_IN_A_ROW = 16
"""So many broken images one after the other are not a blemish of the data but a disk that is gone."""


class PhotoSource:
    """Encoded photos, decoded and cropped by `view`, normalised by `rules`.

    A photo that cannot be read, or whose label is not in [0, num_classes), raises DataError with its path
    (on_error="raise"), or is replaced (on_error="replace") by the next in the data set that can be read, with
    that one's label and draws of the same epoch; where images are `scored`, the label is NOT_SCORED: the next
    one would count twice. What was replaced among a block's own stands in `replaced` until it is taken.
    Either is the same on every rank and in every worker.
    """

    def __init__(
        self,
        container: Container,
        view: View,
        *,
        size: int,
        num_classes: int,
        rules: PixelRules,
        seed: int,
        operators: Operators = NO_OPERATORS,
        on_error: str = "raise",
        scored: bool = False,
        max_pixels: int = MAX_PIXELS,
    ):
        self.container, self.view, self.size, self.num_classes = container, view, size, num_classes
        self.rules, self.max_pixels = rules, max_pixels
        self.mean = torch.tensor(rules.mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(rules.std, dtype=torch.float32).view(-1, 1, 1)
        self.seed, self.operators = seed, operators
        self.on_error, self.scored = on_error, scored
        self.replaced: list[str] = []

    def __len__(self) -> int:
        return len(self.container)

    @functools.cached_property
    def index(self) -> SplitIndex:
        return index_of(self.container)

    def fetch(self, block: Block) -> Batch:
        pixels = torch.empty(len(block.indices), 3, self.size, self.size)
        labels = torch.empty(len(block.indices), dtype=torch.int64)
        numbers = fractions(draws(block, self.seed, self.view.draws)).T
        own, varied = range(len(block.indices))[block.own], self.operators.numbers(block, self.seed)
        for place, (epoch, index) in enumerate(
            zip(block.epochs.tolist(), block.indices.tolist(), strict=True)
        ):
            try:
                seen, labels[place] = self._sample(index, numbers[place].tolist())
            except DataError as error:
                seen, labels[place], shown = self._instead_of(epoch, index, error)
                varied[place] = self.operators.numbers(shown, self.seed)[0]
                if place in own and epoch != PADDING:  # a filler is loaded, but nobody sees it
                    name = self.container.name(int(shown.indices[0]))
                    text = f"not scored: {error}" if self.scored else f"replaced: {error}; replaced by {name}"
                    self.replaced.append(text)
                if self.scored:
                    labels[place] = NOT_SCORED
            # one by one, while they are in the cache
            pixels[place].copy_(self.operators.vary(seen, varied[place][0])).sub_(self.mean).div_(self.std)
            self.operators.erase(pixels[place], varied[place][1])
        return pixels, labels

    def sized(self, size: int) -> "PhotoSource":
        """See `Source`: crops are taken at that size."""
        other = copy.copy(self)
        other.size, other.replaced = size, []
        return other

    def decode(self, index: int) -> None:
        """Reads an image and its label as a batch would, whole. Raises DataError."""
        self._label(index)
        photo = self._photo(index)
        try:
            photo.crop(Box(0, 0, photo.height, photo.width), photo.height, photo.width)
        except BrokenImage as error:
            raise unreadable(self.container.name(index), error) from error

    def take_replaced(self) -> list[str]:
        """Messages about the images replaced since this was last asked."""
        taken, self.replaced = self.replaced, []
        return taken

    def _sample(self, index: int, numbers: Sequence[float]) -> tuple[Tensor, int]:
        label, photo = self._label(index), self._photo(index)
        try:
            return self.view.look(photo, numbers, self.size, self.rules.crop_share), label
        except BrokenImage as error:
            raise unreadable(self.container.name(index), error) from error

    def _label(self, index: int) -> int:
        label = int(self.container.labels[index])
        if not 0 <= label < self.num_classes:
            raise DataError(
                f"{self.container.name(index)}: label {label}, but there are {self.num_classes} classes"
            )
        return label

    def _photo(self, index: int) -> Photo:
        interpolation, most = self.rules.interpolation, self.max_pixels
        try:
            with naming_the_shortage():  # the image may be whole: it is neither replaced nor to be repaired
                data = self.container.read(index)
            return Photo(data, interpolation=interpolation, max_pixels=most)
        except (BrokenImage, OSError) as error:
            raise unreadable(self.container.name(index), error) from error

    def _instead_of(self, epoch: int, index: int, error: DataError) -> tuple[Tensor, int, Block]:
        """Pixels and label of the image that is shown in place of a broken one, and the block of it alone."""
        if self.on_error == "raise":
            raise DataError(
                f"{error}. Repair or remove it, or go on without such images: data.on_error=replace"
            ) from error
        for step in range(1, MOST_IN_A_ROW):
            other = (index + step) % len(self)
            block = Block(np.array([epoch]), np.array([other]))
            numbers = fractions(draws(block, self.seed, self.view.draws))[:, 0]
            try:
                return *self._sample(other, numbers.tolist()), block
            except DataError:
                continue
        raise DataError(
            f"{error}, nor any of the {MOST_IN_A_ROW - 1} after it: is the data still there?"
        ) from error
