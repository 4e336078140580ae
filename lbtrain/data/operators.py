"""timm's and torchvision's augmentation of single images, with random numbers that belong to the example.

Their operators draw from the global generators of Python, numpy and torch, so what an image becomes depends
on what its worker has loaded before. Here the generators are seeded before each image by a hash of (seed,
epoch, index in the data set), and continue afterwards as if nothing had been drawn.

Sources: Cubuk et al. 2019 (AutoAugment) and 2020 (RandAugment), as timm.data.auto_augment has them with its
variants (magnitude noise, increasing severity); Müller & Hutter 2021 (TrivialAugment), torchvision's
TrivialAugmentWide; colour jitter, torchvision's; Zhong et al. 2020 (random erasing), timm's RandomErasing.
Order, as in timm.data.transforms_factory: policy, jitter, normalisation, erasing.

Cost: one to four passes of Pillow over an image, on a CPU: 1 to 4 ms for 224 x 224 pixels.
"""

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lbtrain.data.augment import draws
from lbtrain.data.stream import Block

_SALT = 1 << 36
"""Keeps these draws apart from those of crops, mixing and loss weights."""


@dataclass(frozen=True)
class Operators:
    """What a recipe does to one image, in words of its section `data`.

    mean: per channel in units of 0 to 255, with which a policy fills what it moves out of sight.
    interpolation: bilinear, bicubic, or empty for timm's random choice between the two.
    """

    policy: str = ""
    jitter: float = 0.0
    erasing: float = 0.0
    erasing_mode: str = "const"
    mean: tuple[float, ...] = (128.0,)
    interpolation: str = ""

    def numbers(self, block: Block, seed: int) -> list[tuple[int, int]]:
        """Of each sample of the block, from which `vary` and `erase` draw."""
        vary, erase = draws(block, seed + _SALT, 2).tolist()
        return list(zip(vary, erase, strict=True))

    def vary(self, image: Tensor, number: int) -> Tensor:
        """Policy and jitter. image: uint8 (1 or 3, height, width), returned in the same shape."""
        if not (self.policy or self.jitter):
            return image
        # An image of one channel is shown to the operators as a grey one of three.
        picture = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
        with _drawing_from(number):
            for step in _steps(self, min(image.shape[-2:])):
                picture = step(picture)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[: len(image)]

    def erase(self, image: Tensor, number: int) -> None:
        """Random erasing. image: float32 (channels, height, width), normalised, changed in place."""
        if self.erasing:
            with _drawing_from(number):
                _eraser(self)(image)

    def __bool__(self) -> bool:
        return bool(self.policy or self.jitter or self.erasing)


NO_OPERATORS = Operators()


@functools.lru_cache(maxsize=16)
def _steps(operators: Operators, size: int) -> list[Callable[[Any], Any]]:
    """For images of `size` pixels a side."""
    from torchvision.transforms import ColorJitter

    steps = [_policy(operators, size)] if operators.policy else []
    return [*steps, ColorJitter(*3 * [operators.jitter])] if operators.jitter else steps


def _policy(operators: Operators, size: int) -> Callable[[Any], Any]:
    """As timm.data.transforms_factory makes it."""
    from timm.data.auto_augment import auto_augment_transform, rand_augment_transform
    from timm.data.transforms import str_to_pil_interp
    from torchvision.transforms import TrivialAugmentWide

    words, mean = operators.policy, operators.mean
    if words == "ta_wide":
        return TrivialAugmentWide()
    fill = tuple(min(255, round(value)) for value in (mean if len(mean) == 3 else 3 * mean))
    hparams: dict[str, Any] = dict(translate_const=int(size * 0.45), img_mean=fill)
    if operators.interpolation:
        hparams["interpolation"] = str_to_pil_interp(operators.interpolation)
    create: Any = rand_augment_transform if words.startswith("rand") else auto_augment_transform
    made: Any = create(words, hparams)
    for operator in made.ops if words.startswith("rand") else itertools.chain(*made.policy):
        if "Posterize" in operator.name:
            operator.aug_fn = functools.partial(_posterize, operator.aug_fn)
    policy: Callable[[Any], Any] = made
    return policy


def _posterize(timms: Callable[..., Any], image: Image.Image, bits_to_keep: int, **options: Any) -> Any:
    """timm asks for 0 bits at a magnitude of 10, and for fewer above: a black image, but Pillow 13 raises
    ValueError.
    """
    return timms(image, bits_to_keep, **options) if bits_to_keep > 0 else Image.new(image.mode, image.size)


@functools.lru_cache(maxsize=16)
def _eraser(operators: Operators) -> Callable[[Tensor], Tensor]:
    from timm.data.random_erasing import RandomErasing

    eraser: Callable[[Tensor], Tensor] = RandomErasing(
        operators.erasing, mode=operators.erasing_mode, device="cpu"
    )
    return eraser


@contextmanager
def _drawing_from(number: int) -> Iterator[None]:
    """The global generators draw from `number` meanwhile, and then continue as if nothing had been drawn."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(number)
    np.random.seed([number & 0xFFFFFFFF, number >> 32])
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
