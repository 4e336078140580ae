"""Views of a photo: which part of it is seen, and how it is varied. Each view is a pure function of the photo
and the sample's own draws.

none            as for scoring: shorter side to size / data.crop_share (256 for 224), centre crop
imagenet        a box of 8 % (data.min_crop_area) to 100 % of the area and 3/4 to 4/3 wide for its height,
                resized to 224 x 224, flipped with probability 1/2: scale and aspect-ratio augmentation of
                Szegedy et al. 2015 (section 6) as Goyal et al. 2017 use it (section 5.1). They state no
                colour augmentation. torchvision's form: the aspect ratio is uniform in its logarithm, ten
                tries, then the centre
imagenet_color  the same, then brightness, contrast and saturation in random order, each by up to 40 %, and
                AlexNet's lighting noise with standard deviation 0.1: what the implementation that Goyal et
                al. cite does beyond their text (Gross & Wilber 2016)
alexnet         shorter side to 256, the central 256 x 256 of it, a random 224 x 224 (or 227 x 227, with
                data.crop_share=0.8867) of that, flipped with probability 1/2 (Krizhevsky et al. 2012, section
                4.1). Read here as what You et al. 2017 (LARS, table 4) call minimal augmentation; their
                extended one is `imagenet`. With it the mean is subtracted and nothing divided, as Caffe does
                (lbtrain.data.registry)
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lbtrain.data.decode import Box, Photo
from lbtrain.data.pixels import CROP_SHARE

Draws = Sequence[float]
"""Of one sample: uniform in [0, 1), as many as the view asks for."""

_TRIES = 10
LEAST_AREA = 0.08
"""Share of the photo's area that a random box has at least (Szegedy et al. 2015)."""


@dataclass(frozen=True)
class View:
    """`look(photo, draws, size, crop_share)` gives uint8 or float32 (3, size, size) in units of 0 to 255.
    Raises BrokenImage.
    """

    draws: int
    look: Callable[..., Tensor]


def side_before_crop(size: int, crop_share: float) -> int:
    """The pixels of which a crop of `size` is that share, rounded down; a share that was rounded itself
    (0.949152542373 for 224 of 236) loses none.
    """
    return int(size / crop_share + 1e-6)


def central(photo: Photo, draws: Draws, size: int, crop_share: float = CROP_SHARE) -> Tensor:
    """The middle of the photo, whose shorter side is first made size / crop_share pixels, rounded down (256
    for 224 and 0.875): what a model is scored on.
    """
    resized = _shorter_side(photo, side_before_crop(size, crop_share))
    top, left = (round((length - size) / 2) for length in resized.shape[1:])
    return resized[:, top : top + size, left : left + size]


def scale_aspect_flip(
    photo: Photo, draws: Draws, size: int, crop_share: float = CROP_SHARE, least_area: float = LEAST_AREA
) -> Tensor:
    """A random box of at least `least_area` of the photo, stretched to (size, size), flipped left-right half
    of the time.
    """
    flip, *rest = draws
    return _flipped(photo.crop(random_box(photo.height, photo.width, rest, least_area), size, size), flip)


def scale_aspect_flip_color(
    photo: Photo, draws: Draws, size: int, crop_share: float = CROP_SHARE, least_area: float = LEAST_AREA
) -> Tensor:
    """`scale_aspect_flip`, then colours moved by jitter and lighting."""
    color, rest = draws[:_COLOR_DRAWS], draws[_COLOR_DRAWS:]
    seen = scale_aspect_flip(photo, rest, size, crop_share, least_area)
    return lighting(color_jitter(seen.float(), color[:4]), color[4:])


def fixed_crop_flip(photo: Photo, draws: Draws, size: int, crop_share: float = CROP_SHARE) -> Tensor:
    """A random crop of the middle square of size / crop_share pixels, flipped left-right half of the time."""
    flip, down, across = draws
    side = side_before_crop(size, crop_share)
    resized = _shorter_side(photo, side)
    top, left = (round((length - side) / 2) for length in resized.shape[1:])
    top, left = top + int(down * (side - size + 1)), left + int(across * (side - size + 1))
    return _flipped(resized[:, top : top + size, left : left + size], flip)


def random_box(height: int, width: int, draws: Draws, least_area: float = LEAST_AREA) -> Box:
    """Four draws a try: area, aspect ratio, place down, place across."""
    for number in range(_TRIES):
        share, ratio, down, across = draws[4 * number : 4 * number + 4]
        area = height * width * (least_area + (1 - least_area) * share)
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * ratio)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(down * (height - h + 1)), int(across * (width - w + 1)), h, w)
    h, w = max(1, min(height, round(width * 4 / 3))), max(1, min(width, round(height * 4 / 3)))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def color_jitter(pixels: Tensor, draws: Draws) -> Tensor:
    """Brightness, contrast and saturation times 1 +- 0.4, in one of the six orders; nothing is clipped.
    pixels: float32 (3, h, w).
    """
    order, *amounts = draws
    steps = [_brightness, _contrast, _saturation]
    turn = int(order * 6)
    for step in (steps[turn % 3 :] + steps[: turn % 3])[:: 1 if turn < 3 else -1]:
        pixels = step(pixels, 0.6 + 0.8 * amounts[steps.index(step)])
    return pixels


def _brightness(pixels: Tensor, by: float) -> Tensor:
    return pixels * by


def _contrast(pixels: Tensor, by: float) -> Tensor:
    return torch.lerp(_grey(pixels).mean(), pixels, by)


def _saturation(pixels: Tensor, by: float) -> Tensor:
    return torch.lerp(_grey(pixels), pixels, by)


def _grey(pixels: Tensor) -> Tensor:
    return (pixels * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)


# Principal components of ImageNet's pixels in [0, 1]: published constants, the same in every implementation
# of AlexNet's lighting noise.
_EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def lighting(pixels: Tensor, draws: Draws) -> Tensor:
    """Adds one colour to all pixels: the principal components times their eigenvalues times N(0, 0.1) each.
    Six draws.
    """
    normal = [
        math.sqrt(-2 * math.log(1 - a)) * math.cos(2 * math.pi * b)
        for a, b in zip(draws[::2], draws[1::2], strict=True)
    ]
    color = _EIGENVECTORS @ (0.1 * torch.tensor(normal) * _EIGENVALUES)
    return pixels + 255 * color.view(3, 1, 1)


def _flipped(pixels: Tensor, draw: float) -> Tensor:
    return pixels.flip(-1) if draw < 0.5 else pixels


def _shorter_side(photo: Photo, side: int) -> Tensor:
    """The photo with its shorter side at `side`, the other in proportion, rounded down; of a strip only the
    middle, four times as long.
    """
    shorter = min(photo.height, photo.width)
    height, width = min(photo.height, 4 * shorter), min(photo.width, 4 * shorter)
    middle = Box((photo.height - height) // 2, (photo.width - width) // 2, height, width)
    return photo.crop(middle, side * height // shorter, side * width // shorter)


_COLOR_DRAWS = 4 + 6
VIEWS = {
    "none": View(0, central),
    "imagenet": View(1 + 4 * _TRIES, scale_aspect_flip),
    "imagenet_color": View(1 + 4 * _TRIES + _COLOR_DRAWS, scale_aspect_flip_color),
    "alexnet": View(3, fixed_crop_flip),
}


def view_of(name: str, least_area: float) -> View:
    """The view of that name, whose boxes take at least that share of the photo's area, where it has boxes."""
    view = VIEWS[name]
    if least_area == LEAST_AREA:
        return view
    return View(view.draws, functools.partial(view.look, least_area=least_area))
